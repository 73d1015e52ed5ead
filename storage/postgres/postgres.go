// Package postgres is all the SQL of Calpe but the migrations: the log, the rows
// beside it, checkpoints, leadership and the chain of anchors. Each file serves
// one consumer, which declares the few methods that it needs.
//
// It imports the vocabulary of the root package and of anchor/ledger (words and
// a table of edges, no behaviour of a stage), and no stage.
//
// Connections must reach the server directly, or through a pooler in session
// mode: the package relies on session settings, session advisory locks and on a
// connection staying with one server.
package postgres

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/migrations"
)

// Config says how to reach the database and how long to wait for it.
type Config struct {
	// URL as libpq reads it: postgres://user@host:port/database?sslmode=verify-full.
	// A password may come from PGPASSWORD or a password file instead.
	URL string
	// MaxConns bounds the pool for reading. Defaults to 16. Transactions that write
	// have up to 4 connections of their own, so that no number of readers keeps a
	// group from being committed; leadership and the look-up after a lost COMMIT
	// use connections beyond both.
	MaxConns int32
	// ConnectTimeout bounds one connection attempt. Defaults to 5 s.
	ConnectTimeout time.Duration
	// StatementTimeout is the server's bound of one statement. Defaults to 30 s.
	StatementTimeout time.Duration
	// LockTimeout bounds each wait for a lock, so also a group's wait behind
	// other groups. Defaults to 5 s.
	LockTimeout time.Duration
	// IdleInTransactionTimeout is how long the server keeps the locks of a
	// process that went silent within a transaction. Defaults to 5 s.
	IdleInTransactionTimeout time.Duration
	// ResolveTimeout bounds how long CommitGroup tries to learn what became of a
	// COMMIT without an answer. It should be well above LockTimeout and
	// IdleInTransactionTimeout. Defaults to 20 s.
	ResolveTimeout time.Duration
	// LeaderPoll is how often a process that doesn't lead asks. Defaults to 1 s.
	LeaderPoll time.Duration
	// LeaderPing is how often a leader checks its connection. Defaults to 2 s.
	LeaderPing time.Duration
	// LeaderTimeout is how long a leader waits for the answer before it gives up.
	// What keeps a former leader from writing is the epoch, not this. Defaults to 5 s.
	LeaderTimeout time.Duration
	// IntakeSilence is how long the server lets who holds the intake lock say
	// nothing. It must be longer than recovery reads object storage between two
	// statements. Defaults to 10 min.
	IntakeSilence time.Duration
	// Observe, if set, is told of each statement, batch and connection attempt when
	// it is over. It must not block.
	Observe func(operation Operation, outcome Outcome, took time.Duration)
	// Logger; nil is silence. Never sees a URL, key or token.
	Logger *slog.Logger
	// Now is the clock. Defaults to time.Now.
	Now func() time.Time
}

func (c Config) withDefaults() Config {
	c.MaxConns = cmp.Or(c.MaxConns, 16)
	c.ConnectTimeout = cmp.Or(c.ConnectTimeout, 5*time.Second)
	c.StatementTimeout = cmp.Or(c.StatementTimeout, 30*time.Second)
	c.LockTimeout = cmp.Or(c.LockTimeout, 5*time.Second)
	c.IdleInTransactionTimeout = cmp.Or(c.IdleInTransactionTimeout, 5*time.Second)
	c.ResolveTimeout = cmp.Or(c.ResolveTimeout, 20*time.Second)
	c.LeaderPoll = cmp.Or(c.LeaderPoll, time.Second)
	c.LeaderPing = cmp.Or(c.LeaderPing, 2*time.Second)
	c.LeaderTimeout = cmp.Or(c.LeaderTimeout, 5*time.Second)
	c.IntakeSilence = cmp.Or(c.IntakeSilence, 10*time.Minute)
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler))
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// DB is two pools of connections to one database, for reading and for writing. Its methods may be called
// concurrently unless they say otherwise, and are bounded by their context and
// by the time-outs of [Config]. None retries by itself unless it says so.
type DB struct {
	pool   *pgxpool.Pool
	writes *pgxpool.Pool
	cfg    Config
	log    *slog.Logger
	now    func() time.Time
	seen   atomic.Pointer[calpe.Instance] // by the last call of Instance
}

// Open connects to the database and checks that it answers. It changes nothing
// there; see [DB.CheckSettings] and [DB.CheckSchema] for whether it may be used.
func Open(ctx context.Context, cfg Config) (*DB, error) {
	cfg = cfg.withDefaults()
	pc, err := pgxpool.ParseConfig(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("read database URL: %w", err) // pgx leaves the password out
	}
	pc.MaxConns = cfg.MaxConns
	pc.AfterConnect = rememberInstance
	configureConnection(pc.ConnConfig, cfg)
	pool, err := pgxpool.NewWithConfig(ctx, pc)
	if err != nil {
		return nil, fmt.Errorf("open database pool: %w", err)
	}
	pc = pc.Copy()
	pc.MaxConns, pc.MinConns, pc.MinIdleConns = writeConns, 0, 0
	writes, err := pgxpool.NewWithConfig(ctx, pc)
	if err != nil {
		pool.Close()
		return nil, fmt.Errorf("open database pool: %w", err)
	}
	db := &DB{pool: pool, writes: writes, cfg: cfg, log: cfg.Logger, now: cfg.Now}
	if err := db.Ping(ctx); err != nil {
		db.Close()
		return nil, err
	}
	return db, nil
}

// writeConns is enough for two groups on their way, the sealer and the engine.
const writeConns = 4

// configureConnection sets what every connection must have, whatever the URL,
// the role or the database say: a startup parameter goes before their settings.
func configureConnection(cc *pgx.ConnConfig, cfg Config) {
	cc.ConnectTimeout = cfg.ConnectTimeout
	cc.OnNotice = noteWarning
	if cfg.Observe != nil {
		cc.Tracer = &tracer{observe: cfg.Observe}
	}
	dialer := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3}}
	cc.DialFunc = dialer.DialContext
	p := cc.RuntimeParams
	if p["application_name"] == "" {
		p["application_name"] = "calped"
	}
	p["timezone"] = "UTC"
	p["synchronous_commit"] = "on" // an acknowledged index is a promise (I7)
	p["default_transaction_isolation"] = "read committed"
	p["default_transaction_read_only"] = "off"
	p["statement_timeout"] = milliseconds(cfg.StatementTimeout)
	p["lock_timeout"] = milliseconds(cfg.LockTimeout)
	p["idle_in_transaction_session_timeout"] = milliseconds(cfg.IdleInTransactionTimeout)
	// The server, too, must notice that a client has gone, or it keeps its locks.
	p["tcp_keepalives_idle"], p["tcp_keepalives_interval"], p["tcp_keepalives_count"] = "10", "5", "3"
}

func milliseconds(d time.Duration) string { return strconv.FormatInt(max(1, d.Milliseconds()), 10) }

// Close waits until every connection is back and closes them.
func (db *DB) Close() {
	db.pool.Close()
	db.writes.Close()
}

// Ping asks the server for an answer.
func (db *DB) Ping(ctx context.Context) error {
	return translate("reach database", db.pool.Ping(ctx))
}

// CheckSchema is nil if the database's schema is the one of this build. Its
// errors say what to do.
func (db *DB) CheckSchema(ctx context.Context) error {
	return migrations.Check(ctx, db.pool)
}

// session is what the package knows of one connection. Only who holds the
// connection touches it.
type session struct {
	instance calpe.Instance
	warned   bool // the server has sent a WARNING since this was last cleared
}

const sessionKey = "calpe"

func sessionOf(conn *pgx.Conn) *session {
	s, ok := conn.PgConn().CustomData()[sessionKey].(*session)
	if !ok {
		s = new(session)
		conn.PgConn().CustomData()[sessionKey] = s
	}
	return s
}

// noteWarning remembers a WARNING. The one that matters comes with COMMIT, when
// the wait for a synchronous standby was given up: "The transaction has already
// committed locally, but might not have been replicated to the standby."
func noteWarning(pc *pgconn.PgConn, n *pgconn.Notice) {
	if s, ok := pc.CustomData()[sessionKey].(*session); ok && n.SeverityUnlocalized == "WARNING" {
		s.warned = true
	}
}

// rememberInstance reads on which server a new connection has ended. A
// connection stays with its server, so it need not be read again: a restart
// breaks it, and a standby that is promoted was a standby (timeline 0) when the
// connection was made.
func rememberInstance(ctx context.Context, conn *pgx.Conn) error {
	i, err := readInstance(ctx, conn)
	if err != nil {
		return err
	}
	sessionOf(conn).instance = i
	return nil
}

// The timeline is that of the WAL file being written: pg_control_checkpoint
// lags behind a promotion.
const instanceSQL = `
SELECT (SELECT system_identifier::text FROM pg_control_system()),
       CASE WHEN pg_is_in_recovery() THEN '00000000' ELSE substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END,
       pg_postmaster_start_time()`

func readInstance(ctx context.Context, q querier) (calpe.Instance, error) {
	var (
		i        calpe.Instance
		timeline string
	)
	if err := q.QueryRow(ctx, instanceSQL).Scan(&i.SystemIdentifier, &timeline, &i.Started); err != nil {
		return calpe.Instance{}, translate("read which server this is", err)
	}
	n, err := strconv.ParseUint(timeline, 16, 32)
	if err != nil {
		return calpe.Instance{}, fmt.Errorf("read which server this is: timeline %q: %w", timeline, err)
	}
	i.Timeline, i.Started = uint32(n), i.Started.UTC()
	return i, nil
}

// Instance asks, on a new connection, which running server the database is on
// now. A standby has timeline 0. If it has changed since the last call, the
// pools' connections are replaced as they come back.
func (db *DB) Instance(ctx context.Context) (calpe.Instance, error) {
	if conn := heldBy(ctx, db); conn != nil {
		return readInstance(ctx, conn)
	}
	conn, err := db.connect(ctx)
	if err != nil {
		return calpe.Instance{}, err
	}
	defer closeConn(ctx, conn)
	i := sessionOf(conn).instance
	if before := db.seen.Swap(&i); before != nil && !before.Equal(i) {
		db.log.WarnContext(ctx, "the database is another instance",
			slog.String("before", before.String()), slog.String("now", i.String()))
		db.pool.Reset()
		db.writes.Reset()
	}
	return i, nil
}

// querier is what a pool, a connection and a transaction have in common.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// heldConn is the context key of the connection that holds the intake lock.
type heldConn struct{ db *DB }

// heldBy is the connection that ctx carries, see [DB.WithIntakeLock]; nil if none.
func heldBy(ctx context.Context, db *DB) *pgx.Conn {
	conn, _ := ctx.Value(heldConn{db}).(*pgx.Conn)
	return conn
}

// on is where a single statement runs: on the connection that ctx carries, or
// on any of the pool.
func (db *DB) on(ctx context.Context) querier {
	if conn := heldBy(ctx, db); conn != nil {
		return conn
	}
	return db.pool
}

// acquire gives a connection of a pool for a transaction, or the one that ctx
// carries, and the function that gives it back. A connection that isn't idle by
// then is closed, not used again.
func (db *DB) acquire(ctx context.Context, pool *pgxpool.Pool) (*pgx.Conn, func(), error) {
	if conn := heldBy(ctx, db); conn != nil {
		return conn, func() {}, nil
	}
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return nil, nil, translate("reach database", err)
	}
	return conn.Conn(), conn.Release, nil
}

// connect opens a connection beside the pool, with the same settings.
func (db *DB) connect(ctx context.Context) (*pgx.Conn, error) {
	conn, err := pgx.ConnectConfig(ctx, db.pool.Config().ConnConfig)
	if err != nil {
		return nil, translate("connect to database", err)
	}
	if err := rememberInstance(ctx, conn); err != nil {
		closeConn(ctx, conn)
		return nil, err
	}
	return conn, nil
}

// closeConn says goodbye to the server within a second, even if ctx is done.
func closeConn(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // the socket is closed in any case
}

// inTx runs fn in a transaction that writes, on a connection for that or on the connection of ctx. A lost
// COMMIT is an error that leaves the outcome open: fn must write what may be
// written twice, or what a second time is refused.
func (db *DB) inTx(ctx context.Context, what string, fn func(tx pgx.Tx) error) error {
	conn, release, err := db.acquire(ctx, db.writes)
	if err != nil {
		return err
	}
	defer release()
	return translate(what, pgx.BeginFunc(ctx, conn, fn))
}
