// Package porttest finds ports for the servers of tests.
package porttest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
)

// Address is one of the loopback interface, host:port, that nobody listens on
// now. Its port is below those that a system gives to connections and to those
// who ask for any, so that it stays free while a server is down that is to be
// started again.
func Address(tb testing.TB) string {
	tb.Helper()
	var err error
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(10_000))
		var l net.Listener
		if l, err = new(net.ListenConfig).Listen(tb.Context(), "tcp", address); err == nil {
			if err := l.Close(); err != nil {
				tb.Fatalf("free a port: %v", err)
			}
			return address
		}
	}
	tb.Fatalf("find a free port: %v", err)
	return ""
}
