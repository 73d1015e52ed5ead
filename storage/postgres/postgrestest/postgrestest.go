// Package postgrestest gives each test a database of its own on the server that
// the test run was given.
package postgrestest

import (
	"context"
	"crypto/rand"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/calpe/calpe/migrations"
)

// Variable names the environment variable with the URL of a throw-away server,
// whose user may create databases.
const Variable = "CALPE_TEST_DATABASE_URL"

const timeout = 30 * time.Second

// URL is that of a fresh database with the schema of this build. It is dropped
// after the test, whoever is still connected.
func URL(tb testing.TB) string {
	tb.Helper()
	u := Empty(tb)
	ctx, cancel := context.WithTimeout(tb.Context(), timeout)
	defer cancel()
	if err := migrations.Up(ctx, u, nil); err != nil {
		tb.Fatalf("migrate test database: %v", err)
	}
	return u
}

// Empty is the URL of a fresh database without any schema, dropped after the
// test.
func Empty(tb testing.TB) string {
	tb.Helper()
	server := os.Getenv(Variable)
	if server == "" {
		tb.Fatalf("%s is not set: run `make test`, which starts a PostgreSQL server for the tests", Variable)
	}
	name := "calpe_test_" + strings.ToLower(rand.Text())
	Exec(tb, server, "CREATE DATABASE "+name)
	tb.Cleanup(func() { Exec(tb, server, "DROP DATABASE "+name+" WITH (FORCE)") })
	u, err := url.Parse(server)
	if err != nil {
		tb.Fatalf("%s is not a URL", Variable)
	}
	u.Path = "/" + name
	return u.String()
}

// Exec runs one statement on a connection of its own, as the tests' superuser.
func Exec(tb testing.TB, url, sql string, args ...any) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout) // also after the test
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		tb.Fatalf("connect to test database: %v", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.Exec(ctx, sql, args...); err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
}
