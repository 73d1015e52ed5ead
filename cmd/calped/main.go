// Command calped is the Calpe server and the operator's tool: it migrates the
// database, makes keys, creates the log, registers agencies, hands out tokens,
// and serves. See docs/operations.md, and "calped --help".
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
