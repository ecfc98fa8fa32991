# Runs under the systemd of boot.sh; says what it has seen as lines of `name: value`.
trap 'systemctl --force --force poweroff' EXIT
export PATH=/opt/mezite/bin:$PATH HOME=/payload/home
mkdir -p $HOME  # whatever the real one remembers of other identities
say() { printf '%s: %s\n' "$1" "$2"; }
value() { systemctl show --property="$2" --value "$1"; }
certs=/var/lib/mezite/identity/certs
log_in() { ssh -F "$1/ssh_config" deploy@web-1 whoami 2>&1; }
# As systemd.md has it; what it asks for comes by standard input.
typed() { (cd /payload && bash -euo pipefail "/payload/typed-$1.sh"); }
join_token() { mezctl bots add --name="$1" --roles=r --token-ttl=1h | awk '/^Join token/ {print $3}'; }
wait_until() { for _ in $(seq 600); do if eval "$1"; then return 0; fi; sleep 0.2; done; return 1; }

say booted yes
echo '127.0.0.1 mezite.example.com' >> /etc/hosts
useradd --create-home deploy
for unit in mezite-auth mezd mezd@; do
  mkdir -p "/etc/systemd/system/$unit.service.d"
  printf '[Service]\nStandardOutput=append:/payload/%s.log\nStandardError=append:/payload/%s.log\n' "$unit" "$unit" \
    > "/etc/systemd/system/$unit.service.d/log.conf"
done
# Server and machine on one host: the machine's unit wants /var/lib/mezite for itself.
printf '[Service]\nStateDirectory=\nStateDirectory=mezite-auth\nEnvironment=MEZITE_DATA_DIR=/var/lib/mezite-auth\n' \
  > /etc/systemd/system/mezite-auth.service.d/elsewhere.conf
mkdir -p /etc/mezite
cat > /etc/mezite/mezite.yaml <<END
cluster_name: example
auth: {listen_addr: 127.0.0.1:3025, public_addr: mezite.example.com:3025, admin_group: mezite, workers: 2}
ssh: {enabled: true, listen_addr: 127.0.0.1:3022, node_name: web-1, labels: {env: staging}}
END
cat > /etc/mezite/role.yaml <<END
kind: role
metadata: {name: r}
spec: {options: {max_session_ttl: 1h}, allow: {node_labels: {env: [staging]}, logins: [deploy]}}
END

typed server
useradd --create-home --groups mezite alice
groupadd readers
usermod --append --groups readers alice
say auth "$(value mezite-auth ActiveState) $(value mezite-auth UnitFileState) $(value mezite-auth StatusText)"
say keys "$(mezctl status | awk '/^CA keys/ {print $3}')"
say socket "$(stat -c '%U:%G %a' /run/mezite/admin.sock) in $(stat -c %a /run/mezite)"
say operator "$(runuser -u alice -- /opt/mezite/bin/mezctl bots ls --format=json | tr -d ' \n')"
runuser -u deploy -- /opt/mezite/bin/mezctl bots ls >/dev/null 2>&1; say stranger $?
mezctl roles create --from-file=/etc/mezite/role.yaml >/dev/null

join_token machine | typed machine
say mezd "$(value mezd ActiveState) $(value mezd UnitFileState) $(value mezd StatusText | sed 's/, .*//')"
say account "$(stat -c '%U %a' -L $certs/ssh_key), uid $([ "$(stat -c %u -L $certs/ssh_key)" -ge 61184 ] && echo dynamic)"
say login "$(log_in $certs)"
say msh "$(msh ssh --login=deploy web-1 whoami)"
pid=$(value mezd MainPID)
say token-seen "$(tr '\0' '\n' < "/proc/$pid/environ" | grep -c tok-bot)$(tr '\0' '\n' < "/proc/$pid/cmdline" | grep -c tok-bot)$(ls /etc/mezite | grep -c token)"
printf 'renewal-interval: 2s\noutputs: [files, agent]\n' >> /etc/mezite/identity.yaml
systemctl restart mezd
say without-token "$(value mezd ActiveState) $(log_in $certs)"
say agent "$(SSH_AUTH_SOCK=$certs/agent.sock ssh-add -l | grep -c ECDSA-CERT)"

# Hung, it is started again.
mkdir -p /etc/systemd/system/mezd.service.d
printf '[Service]\nWatchdogSec=3\n' > /etc/systemd/system/mezd.service.d/watchdog.conf
systemctl daemon-reload
systemctl restart mezd
pid=$(value mezd MainPID)
[ "$pid" -gt 1 ] && kill -STOP "$pid"
wait_until '[ "$(value mezd NRestarts)" -ge 1 ] && [ "$(value mezd ActiveState)" = active ]'
say watchdog "$(value mezd ActiveState) $(log_in $certs)"

(umask 077 && join_token account > /etc/mezite/join-token-deploy)
cp /etc/mezite/identity.yaml /etc/mezite/identity-deploy.yaml
cp /payload/docs/systemd/mezd@.service /etc/systemd/system/
systemctl daemon-reload
systemctl start mezd@deploy
its=/var/lib/mezite-identity/deploy/certs
say template "$(stat -c %U -L $its/ssh_key) $(runuser -u deploy -- ssh -F $its/ssh_config deploy@web-1 whoami)"

# With what needs root: another owner, a group, a command of systemd's.
cp /payload/docs/systemd/drop-ins/mezd-root.conf /etc/systemd/system/mezd.service.d/root.conf
printf '[Service]\nType=oneshot\nExecStart=/bin/touch /payload/told\n' > /etc/systemd/system/told.service
cat >> /etc/mezite/identity.yaml <<END
on-renew: [[/bin/systemctl, start, told.service]]
destinations:
  - {name: logs, destination: /srv/logs, owner: deploy, group: readers, mode: "0640", outputs: [files, agent]}
END
systemctl daemon-reload
systemctl restart mezd
wait_until '[ -e /payload/told ] && [ -e /srv/logs/ssh_key ]'
say hook "$([ -e /payload/told ] && echo told)"
say given "$(stat -c '%U:%G %a' -L /srv/logs/ssh_key) $(runuser -u alice -- ssh -F /srv/logs/ssh_config deploy@web-1 whoami 2>&1)"

mezctl bots rm machine >/dev/null
wait_until '[ "$(value mezd ActiveState)" = failed ]'
say removed "$(value mezd ActiveState) $(value mezd ExecMainStatus) restarts $(value mezd NRestarts)"
systemctl reload mezite-auth
say reloaded "$(value mezite-auth ActiveState)"
systemctl stop mezite-auth
say stopped "$(value mezite-auth Result) $(ls /run/mezite 2>/dev/null | wc -l)"
say done yes
