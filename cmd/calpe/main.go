// Command calpe is the tool of citizens, agencies and auditors: it notarizes
// documents with a Calpe service, keeps their receipts up to date, certifies
// documents, and verifies receipts without asking anybody. See "calpe --help".
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := Run(ctx, os.Args[1:], System{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, LookupEnv: os.LookupEnv})
	stop()
	os.Exit(code)
}
