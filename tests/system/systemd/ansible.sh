# Runs under the systemd of boot.sh: the playbook mezd.yaml gives this machine an identity, in several states that it may
# find the machine in; says what it has seen as lines of `name: value`.
trap 'systemctl --force --force poweroff' EXIT
export PATH=/payload/control/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/payload/home LANG=C.UTF-8
export ANSIBLE_NOCOLOR=1 ANSIBLE_PIPELINING=1
mkdir -p $HOME
say() { printf '%s: %s\n' "$1" "$2"; }
value() { systemctl show --property="$2" --value "$1"; }
certs=/var/lib/mezite/identity/certs
log_in() { ssh -F $certs/ssh_config deploy@web-server-01 whoami 2>&1; }
wait_until() { for _ in $(seq 600); do if eval "$1"; then return 0; fi; sleep 0.1; done; return 1; }
# As it is typed, by ssh as somebody who may become root; this machine is all of the inventory's.
play() {  # NAME ARGUMENTS…
  name=$1; shift
  (cd /payload/docs/examples/ansible && ansible-playbook --user=admin --private-key=$HOME/key \
    -e ansible_python_interpreter=/usr/bin/python3 -e mezite_mezctl=/payload/control/bin/mezctl mezd.yaml "$@") \
    > "/payload/play-$name.log" 2>&1
  say "$name" "$? $(sed -n 's/^collector-01 *: *//p' "/payload/play-$name.log" | grep -oE '(changed|failed)=[0-9]+' | tr '\n' ' ' | sed 's/ $//')"
}

say booted yes
# Nothing can be fetched here: the lists of packages are as new as they get.
touch /var/lib/apt/lists /var/lib/apt/periodic/update-success-stamp
printf '[global]\nno-index = true\nfind-links = /payload/wheels\n' > /etc/pip.conf
rm -rf /root/.config/pip /root/.pip
echo '127.0.0.1 mezite.example.com auth-2.example.com collector-01 web-server-01' >> /etc/hosts
useradd --create-home deploy
useradd --create-home --shell=/bin/sh --password='*' admin
echo 'admin ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/admin
ssh-keygen -q -t ed25519 -N '' -f $HOME/key
install -D -o admin -m 600 $HOME/key.pub /home/admin/.ssh/authorized_keys
chown admin /home/admin/.ssh
ssh-keygen -q -t ed25519 -N '' -f $HOME/host_key
echo "* $(cut -d' ' -f1,2 $HOME/host_key.pub)" > /etc/ssh/ssh_known_hosts
mkdir -p /run/sshd
systemd-run --quiet --unit=ways-in /usr/sbin/sshd -D -e -f /dev/null -h $HOME/host_key -o Subsystem='sftp internal-sftp'
mkdir /etc/mezite-auth
cat > /etc/mezite-auth/mezite.yaml <<END
cluster_name: example
data_dir: /var/lib/mezite-auth
auth: {listen_addr: 127.0.0.1:3025, public_addr: [mezite.example.com:3025, auth-2.example.com:3025]}
ssh: {enabled: true, listen_addr: 127.0.0.1:3022, node_name: web-server-01}
END
cat > /etc/mezite-auth/role.yaml <<END
kind: role
metadata: {name: r}
spec: {allow: {node_labels: {"*": ["*"]}, logins: [deploy]}}
END
systemd-run --quiet --unit=auth --property=Type=notify --property=StandardError=append:/payload/auth.log \
  --property=StandardOutput=append:/payload/auth.log --setenv=HOME=/root \
  /payload/control/bin/twistd --nodaemon --pidfile= mezite-auth --config /etc/mezite-auth/mezite.yaml
say auth "$(value auth ActiveState)"
mezctl roles create --from-file=/etc/mezite-auth/role.yaml >/dev/null
mezctl bots add --name=collector --roles=r >/dev/null

# Before anything is done, what would be: nothing is left of it.
play untried --check --start-at-task='Make the directory of the settings'
say untried-left "$(ls -A /etc/mezite 2>/dev/null | wc -l) $(mezctl --format=json tokens ls | grep -c '"id"')"

play first -v
say first-unit "$(value mezd ActiveState) $(value mezd UnitFileState)"
say first-login "$(log_in)"
say first-left "$(ls /etc/mezite)"

play again

# Found stopped, and with other settings.
systemctl disable --quiet --now mezd
play changed --start-at-task='Write the settings' -e mezite_auth_server=auth-2.example.com:3025
say changed-unit "$(value mezd ActiveState) $(value mezd UnitFileState)"
say changed-login "$(log_in)"
say joined "$(mezctl --format=json instances ls | grep -c '"id"')"

# Removed; let in again only when told so: by a bot that is not there, by its own.
mezctl instances rm "$(mezctl --format=json instances ls | grep '"id"' | cut -d'"' -f4)" >/dev/null
mezctl identity renew >/dev/null 2>&1
wait_until '[ "$(value mezd ActiveState)" = failed ]'
say removed "$(value mezd ActiveState)"
play nobody --start-at-task='See whether it has joined' -e join_anew=true -e mezite_bot=nobody
say nobody-told "$(grep -o 'msg.*no bot .nobody.*not_found' /payload/play-nobody.log | wc -l)"
play anew --start-at-task='See whether it has joined' -e join_anew=true
say anew-unit "$(value mezd ActiveState)"
say anew-login "$(log_in)"
say anew-left "$(ls /etc/mezite)"

say secrets-told "$(cat /payload/play-*.log | grep -c 'tok-bot-')"
say done yes
