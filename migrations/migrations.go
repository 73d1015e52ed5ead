// Package migrations holds the database schema as numbered SQL files, each with
// a way up and a way down, and applies them. A file that has been released is
// never edited; a change is a new file.
package migrations

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

// FS has the SQL files, named NNNN_name.sql.
//
//go:embed *.sql
var FS embed.FS

// Table is the table in which applied migrations are recorded.
const Table = "schema_version"

// lockID is the session advisory lock that migrations run under. It is in the
// 64-bit key space, as is the lock of group commit, and differs from it.
const lockID = 0x63616c70_6d696772 // "calpmigr"

// Errors of [Check].
var (
	// ErrPending: the database lacks migrations that this build has.
	ErrPending = errors.New("the database is not migrated")
	// ErrNewer: the database has migrations that this build doesn't know.
	ErrNewer = errors.New("the database was migrated by a newer version")
)

// Latest is the number of the newest migration in this build.
func Latest() int64 {
	entries, err := FS.ReadDir(".")
	if err != nil {
		panic(fmt.Sprintf("migrations: read embedded files: %v", err)) // they are part of the binary
	}
	var latest int64
	for _, e := range entries {
		number, _, _ := strings.Cut(e.Name(), "_")
		if n, err := strconv.ParseInt(number, 10, 64); err == nil {
			latest = max(latest, n)
		}
	}
	return latest
}

// Up applies what is missing, in order, each migration in a transaction of its
// own. Several processes may call it at once: one works, the others wait up to
// five minutes and then find nothing to do. After an error it may be called
// again. A nil logger means silence.
func Up(ctx context.Context, url string, logger *slog.Logger) error {
	return with(url, logger, func(p *goose.Provider) error {
		_, err := p.Up(ctx)
		return err
	})
}

// DownTo takes back the migrations above version, newest first. 0 takes back
// all. It refuses to drop a log that has entries (I7).
func DownTo(ctx context.Context, url string, version int64, logger *slog.Logger) error {
	return with(url, logger, func(p *goose.Provider) error {
		_, err := p.DownTo(ctx, version)
		return err
	})
}

func with(url string, logger *slog.Logger, fn func(*goose.Provider) error) error {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return fmt.Errorf("read database URL: %w", err)
	}
	db := stdlib.OpenDB(*config)
	p, err := provider(db, logger)
	if err == nil {
		err = fn(p)
	}
	if err = errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("migrate database: %w", err)
	}
	return nil
}

func provider(db *sql.DB, logger *slog.Logger) (*goose.Provider, error) {
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockID(lockID), lock.WithLockTimeout(1, 300))
	if err != nil {
		return nil, fmt.Errorf("make migration lock: %w", err)
	}
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	p, err := goose.NewProvider(goose.DialectPostgres, db, FS,
		goose.WithTableName(Table), goose.WithSessionLocker(locker), goose.WithSlog(logger))
	if err != nil {
		return nil, fmt.Errorf("read migrations: %w", err)
	}
	return p, nil
}

// Querier reads one row; a pgx connection, pool or transaction does.
type Querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// VersionOf is the number of the newest migration that was applied to the
// database behind q; 0 if none was. It writes nothing.
func VersionOf(ctx context.Context, q Querier) (int64, error) {
	var exists bool
	if err := q.QueryRow(ctx, "SELECT to_regclass($1) IS NOT NULL", Table).Scan(&exists); err != nil {
		return 0, fmt.Errorf("look for table %s: %w", Table, err)
	}
	if !exists {
		return 0, nil
	}
	var version int64
	err := q.QueryRow(ctx, "SELECT coalesce(max(version_id), 0) FROM "+Table+" WHERE is_applied").Scan(&version)
	if err != nil {
		return 0, fmt.Errorf("read table %s: %w", Table, err)
	}
	return version, nil
}

// Check compares the database behind q with this build: nil if they fit,
// [ErrPending] or [ErrNewer] with what to do about it if they don't.
func Check(ctx context.Context, q Querier) error {
	version, err := VersionOf(ctx, q)
	switch latest := Latest(); {
	case err != nil:
		return err
	case version < latest:
		return fmt.Errorf("%w: it is at version %d and this build needs %d; run `calped migrate`", ErrPending, version, latest)
	case version > latest:
		return fmt.Errorf("%w: it is at version %d and this build knows %d; run the newer build", ErrNewer, version, latest)
	}
	return nil
}

// Version is [VersionOf] of the database at url.
func Version(ctx context.Context, url string) (version int64, err error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return 0, fmt.Errorf("connect to database: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	return VersionOf(ctx, conn)
}

// Pending is the number of migrations that the database at url lacks.
func Pending(ctx context.Context, url string) (int, error) {
	version, err := Version(ctx, url)
	if err != nil {
		return 0, err
	}
	return int(max(0, Latest()-version)), nil
}
