package dev

import (
	"fmt"
	"path/filepath"
	"strings"
)

// The files with variables for a shell.
const (
	userEnv     = "env"          // of somebody who uses the service
	operatorEnv = "operator.env" // of the operator
)

// writeEnvironments writes them; they hold secrets.
func (u *up) writeEnvironments() error {
	user := shell("For calpe and curl. Made anew at each start of the service.",
		"CALPE_SERVER="+u.server.URL, "CALPE_TOKEN="+u.token,
		"CALPE_IDENTITY="+u.deployment.IdentityFile(), "CALPE_NODE="+u.stack.Bitcoin.URL)
	operator := shell("For calped. Made anew at each start of the service.", u.deployment.Environment()...)
	if err := replace(filepath.Join(u.cfg.State, userEnv), []byte(user)); err != nil {
		return err
	}
	return replace(filepath.Join(u.cfg.State, operatorEnv), []byte(operator))
}

// shell is a script that sets variables, given as NAME=value.
func shell(what string, variables ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n", what)
	for _, v := range variables {
		name, value, _ := strings.Cut(v, "=")
		fmt.Fprintf(&b, "export %s='%s'\n", name, strings.ReplaceAll(value, "'", `'\''`))
	}
	return b.String()
}

// welcome says where everything is, and what to try.
func (u *up) welcome() {
	near := func(path string) string { return relative(u.cfg.Near, path) }
	state, calpe := near(u.cfg.State), near(u.cfg.Calpe)
	fmt.Fprintf(u.cfg.Out, `
Calpe runs, for development, and until Ctrl-C. Its state stays in %[1]s.

  service     %[2]s
  token       %[3]s
  calendar    %[15]s (OpenTimestamps, for anybody)
  metrics     http://127.0.0.1:%[16]d/metrics (Prometheus)
  identity    %[4]s
  PostgreSQL  %[5]s
  S3          %[6]s, access key %[7]s, secret key %[8]s
  Bitcoin     %[9]s (simnet; a block every %[10]v while one is waited for)
  agency      %[11]s, its private key is %[12]s

Try it in another terminal, in this folder. First set the variables:

  . %[1]s/env

Notarize a file, wait until it is anchored (half a minute), and verify it:

  echo "I was here." > hello.txt
  %[13]s upload hello.txt --wait final
  %[13]s headers --network simnet headers.bin
  %[13]s verify hello.txt hello.txt.receipt.json --headers headers.bin

As the agency, certify a document before it is uploaded:

  echo "She was born." > birth.txt
  %[13]s certify birth.txt --agency %[11]s --key %[12]s \
      --type "certificate of birth" --subject 1990-0042 --issued 2026-03-01
  %[13]s upload birth.txt --certification birth.txt.certification.json

Stamp a file with the calendar, without a token, as any OpenTimestamps client can:

  %[13]s ots stamp hello.txt --calendar %[15]s
  %[13]s ots upgrade hello.txt.ots --calendar %[15]s     # half a minute later

With nothing but curl:

  curl -H "Authorization: Bearer $CALPE_TOKEN" -F document=@hello.txt $CALPE_SERVER/v1/documents
  curl $CALPE_SERVER/v1/status

The API in a browser: %[2]s/docs

As the operator:

  . %[1]s/operator.env
  %[14]s doctor
  %[14]s wallet balance
  %[14]s fsck

The log of calped:

`, state, u.server.URL, u.token, near(u.deployment.IdentityFile()), u.deployment.cfg.Database,
		u.stack.S3.URL, u.stack.S3.AccessKey, u.stack.S3.SecretKey, u.stack.Bitcoin.URL, u.cfg.BlockEvery,
		agencyID, near(u.agencyKey()), calpe, near(u.cfg.Calped), u.calendar(), u.state.Ports.Metrics)
}

// relative is the path as seen from a folder, if it is below that.
func relative(from, path string) string {
	short, err := filepath.Rel(from, path)
	if err != nil || strings.HasPrefix(short, "..") {
		return path
	}
	return short
}
