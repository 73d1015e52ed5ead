// Command devstack runs the servers that Calpe needs, for development and
// tests: PostgreSQL, versitygw (S3) and btcd (Bitcoin). See README.md.
package main

import (
	_ "embed"
	"os"

	"github.com/calpe/calpe/deploy/devstack/internal/command"
)

// The files that pin the version and hash of all that is built at run time.
var (
	//go:embed go.mod
	goMod []byte
	//go:embed go.sum
	goSum []byte
)

func main() {
	os.Exit(command.Run(command.Config{
		Args: os.Args[1:], GoMod: goMod, GoSum: goSum, Stdout: os.Stdout, Stderr: os.Stderr,
	}))
}
