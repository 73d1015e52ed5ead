package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/calpe/calpe/internal/porttest"
)

// engines are two servers of one log. Each reaches the database through a cable of
// its own.
type engines struct {
	d         *deployment
	conn      *pgx.Conn
	sky       *weather
	addresses [2]string
	cables    [2]*cable
	servers   [2]*server
}

func (e *engines) start(i int) {
	e.d.t.Helper()
	e.servers[i] = e.d.serve(e.addresses[i], map[string]string{"CALPE_DATABASE_URL": e.cables[i].url})
	e.servers[i].awaitReady()
}

// leads is the server that holds the lock of the anchor engine.
func (e *engines) leads(ctx context.Context) (int, error) {
	const sql = `SELECT a.client_port FROM pg_locks l JOIN pg_stat_activity a USING (pid)
		WHERE l.locktype = 'advisory' AND l.classid = x'63616c70'::int AND l.objid = 2 AND l.granted`
	var port int
	if err := e.conn.QueryRow(ctx, sql).Scan(&port); err != nil {
		return 0, err
	}
	for i, c := range e.cables {
		if c.carries(port) {
			return i, nil
		}
	}
	return 0, fmt.Errorf("the leader comes from port %d, which is no server's", port)
}

// leader waits until there is one.
func (e *engines) leader() (leads int) {
	e.d.t.Helper()
	e.sky.until("one of two servers leads", func(ctx context.Context) (err error) {
		leads, err = e.leads(ctx)
		return err
	})
	return leads
}

// blow is a way to lose the leader, and what ends it.
type blow struct {
	name   string
	happen func(e *engines, i int)
	end    func(e *engines, i int)
}

func blows() []blow {
	signal := func(s syscall.Signal) func(e *engines, i int) {
		return func(e *engines, i int) {
			if err := e.servers[i].cmd.Process.Signal(s); err != nil {
				e.d.t.Fatal(err)
			}
		}
	}
	cut := func(e *engines, i int) { e.cables[i].cut() }
	return []blow{
		{"killed", func(e *engines, i int) { e.servers[i].kill() }, (*engines).start},
		{"paused", signal(syscall.SIGSTOP), signal(syscall.SIGCONT)},
		{"cut off, and what it said is heard later", cut, func(e *engines, i int) { e.cables[i].mend(false) }},
		{"cut off, and what it said is lost", cut, func(e *engines, i int) { e.cables[i].mend(true) }},
	}
}

// TestLeaderLost takes the server that anchors away in each way, under load, while
// fees are raised and blocks reorganised away. The other one takes over; when the
// first comes back it finds that it doesn't lead. No attempt is ever made by one
// that doesn't.
func TestLeaderLost(t *testing.T) {
	const rounds = 2
	seed := uint64(time.Now().UnixNano())
	d := deploy(t)
	for name, value := range bumpy() {
		d.env[name] = value
	}
	e := &engines{d: d, conn: d.connect(), sky: d.weather(rand.New(rand.NewPCG(seed, 3)))}
	var loads [2]*load // one for each, because a server that is paused holds its clients up
	for i := range e.servers {
		e.cables[i], e.addresses[i] = newCable(t, d.db.info.URL), porttest.Address(t)
		e.start(i)
		loads[i] = d.load(stampClients(uint64(i)*1_000_000), e.servers[i].url)
	}
	taken := 0
	for range rounds {
		for _, how := range blows() {
			e.attempts(1)
			i := e.leader()
			how.happen(e, i)
			e.sky.until("the other server leads when one was "+how.name, func(ctx context.Context) error {
				if now, err := e.leads(ctx); err != nil || now == i {
					return errors.Join(err, fmt.Errorf("server %d leads", now))
				}
				return nil
			})
			e.attempts(1)
			loads[1-i].awaitMore(3)
			how.end(e, i)
			loads[i].awaitMore(3)
			taken++
		}
	}
	for _, l := range loads {
		l.stop()
	}
	defer d.node.keepMining(400 * time.Millisecond)()
	v := e.servers[0].check(append(loads[0].all(), loads[1].all()...), nil)
	epochs := e.checkEpochs()
	t.Logf("seed %d: the leader was lost %d times, %d acknowledged, %d anchors, attempts of %d epochs, %d reorganisations of up to %d blocks",
		seed, taken, loads[0].count()+loads[1].count(), v.anchors, epochs, e.sky.reorgs, e.sky.deepest)
	if epochs <= taken {
		t.Errorf("attempts are of %d epochs, the leader was lost %d times", epochs, taken)
	}
	for _, s := range e.servers {
		s.exitsCleanly()
	}
}

// attempts waits until n more were made.
func (e *engines) attempts(n int) {
	e.d.t.Helper()
	count := func(ctx context.Context) (made int, err error) {
		err = e.conn.QueryRow(ctx, "SELECT count(*) FROM attempt").Scan(&made)
		return made, err
	}
	before, err := count(e.d.t.Context())
	if err != nil {
		e.d.t.Fatal(err)
	}
	e.sky.until("anchors are attempted", func(ctx context.Context) error {
		now, err := count(ctx)
		if err == nil && now < before+n {
			err = fmt.Errorf("%d attempts, want %d", now, before+n)
		}
		return err
	})
}

// checkEpochs: once a leader has made an attempt, none before it makes another, and
// no two leaders number the attempts of a coin the other way round.
func (e *engines) checkEpochs() (epochs int) {
	e.d.t.Helper()
	var late, mixed int
	if err := e.conn.QueryRow(e.d.t.Context(), `SELECT
		(SELECT count(DISTINCT epoch) FROM attempt),
		(SELECT count(*) FROM attempt a JOIN attempt b ON a.epoch < b.epoch AND a.created_at > b.created_at),
		(SELECT count(*) FROM attempt a JOIN attempt b ON a.coin_txid = b.coin_txid AND a.coin_vout = b.coin_vout AND a.n > b.n AND a.epoch < b.epoch)`,
	).Scan(&epochs, &late, &mixed); err != nil {
		e.d.t.Fatal(err)
	}
	if late != 0 || mixed != 0 {
		e.d.t.Errorf("%d attempts were made by leaders after their time, %d out of turn", late, mixed)
	}
	return epochs
}
