// step-ca from its libraries, as Debian packages them without the program:
//
//	apt-get install golang-go golang-github-smallstep-certificates-dev libpcsclite-dev pkg-config
//	GO111MODULE=off GOPATH=/usr/share/gocode go build -o step-ca bin/benchmarks/step_ca.go
package main

import (
	"log"
	"os"

	"github.com/smallstep/certificates/authority/config"
	"github.com/smallstep/certificates/ca"
)

func main() {
	settings, err := config.LoadConfiguration(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	server, err := ca.New(settings, ca.WithConfigFile(os.Args[1]))
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(server.Run())
}
