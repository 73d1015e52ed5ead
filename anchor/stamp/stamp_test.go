package stamp

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/calendar"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/receipt/headers"
	"github.com/calpe/calpe/receipt/ots"
	"github.com/calpe/calpe/storage/postgres"
	"github.com/calpe/calpe/storage/postgres/postgrestest"
)

const (
	good  = "https://good.example"
	other = "https://other.example"
	depth = 3
)

// world is a log with calendars in memory, a chain that is mined by hand, and a
// store in a real database.
type world struct {
	t      *testing.T
	now    time.Time
	db     *postgres.DB
	head   calpe.Checkpoint
	chain  []calpe.BlockHash // Merkle roots, by height
	salt   byte              // makes headers of two branches differ
	logs   bytes.Buffer
	engine *Engine

	mu        sync.Mutex
	submitted map[string][][]byte                            // by calendar
	answers   map[string]ots.Timestamp                       // by calendar and message
	submit    map[string]func([]byte) (ots.Timestamp, error) // what a calendar does instead of promising
	complete  map[string]func([]byte) (ots.Timestamp, error) // and instead of answering
	slow      map[string]bool                                // it doesn't answer before nobody waits any more
	asked     int
}

func newWorld(t *testing.T, edit func(*Config)) *world {
	t.Helper()
	w := &world{t: t, now: time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC), chain: make([]calpe.BlockHash, 200),
		submitted: map[string][][]byte{}, answers: map[string]ots.Timestamp{},
		submit: map[string]func([]byte) (ots.Timestamp, error){}, complete: map[string]func([]byte) (ots.Timestamp, error){}}
	u := postgrestest.URL(t)
	postgrestest.Exec(t, u, `UPDATE leader SET epoch = 1 WHERE role = 'anchor'`)
	db, err := postgres.Open(t.Context(), postgres.Config{URL: u})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	w.db = db
	w.grow(5)
	w.restart(edit)
	return w
}

// restart makes an engine that knows only what is stored.
func (w *world) restart(edit func(*Config)) {
	w.t.Helper()
	cfg := Config{Store: w.db.Proofs(), Log: w, Calendars: w, Headers: w, Depth: depth, Interval: time.Hour,
		URLs: []*url.URL{w.url(good), w.url(other)}, Ask: 10 * time.Minute, Retry: time.Minute, Stall: 10 * time.Hour,
		Now: func() time.Time { return w.now }, Logger: slog.New(slog.NewTextHandler(&w.logs, nil))}
	if edit != nil {
		edit(&cfg)
	}
	var err error
	if w.engine, err = New(cfg); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) url(text string) *url.URL {
	w.t.Helper()
	u, err := calendar.ParseURL(text)
	if err != nil {
		w.t.Fatal(err)
	}
	return u
}

func (w *world) grow(size uint64) {
	w.head = calpe.Checkpoint{Size: size, Root: sha256.Sum256(binary.BigEndian.AppendUint64(nil, size))}
}

// CheckpointHead implements [Log].
func (w *world) CheckpointHead(context.Context) (calpe.Checkpoint, error) { return w.head, nil }

// Tip and At implement [Headers].
func (w *world) Tip(ctx context.Context) (uint32, calpe.BlockHash, error) {
	tip := uint32(len(w.chain) - 1)
	header, err := w.At(ctx, tip)
	return tip, hashOf(header), err
}

func (w *world) At(_ context.Context, height uint32) (header [calpe.HeaderSize]byte, err error) {
	if int(height) >= len(w.chain) {
		return header, fmt.Errorf("there is no block %d", height)
	}
	header[0] = w.salt
	copy(header[36:], w.chain[height][:])
	binary.LittleEndian.PutUint32(header[76:], height)
	return header, nil
}

func (w *world) mine(n int) {
	for range n {
		w.chain = append(w.chain, calpe.BlockHash{w.salt, 1})
	}
}

// Submit implements [Calendars].
func (w *world) Submit(_ context.Context, base *url.URL, digest []byte) (ots.Timestamp, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	name := base.String()
	w.submitted[name] = append(w.submitted[name], digest)
	if do := w.submit[name]; do != nil {
		return do(digest)
	}
	return w.promise(digest, name, name), nil
}

// promise is one of a calendar, pending somewhere.
func (w *world) promise(digest []byte, nonce, at string) ots.Timestamp {
	a, err := ots.PendingAt(at)
	if err != nil {
		w.t.Error(err)
	}
	p, err := ots.NewTimestamp(digest, []ots.Op{{Tag: ots.Append, Arg: nonce}, {Tag: ots.SHA256}}, a)
	if err != nil {
		w.t.Error(err)
	}
	return p
}

// Complete implements [Calendars].
func (w *world) Complete(ctx context.Context, base *url.URL, message []byte) (ots.Timestamp, error) {
	if w.slow[base.String()] {
		<-ctx.Done()
		return ots.Timestamp{}, fmt.Errorf("%w: pending", calendar.ErrNotYet)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked++
	if do := w.complete[base.String()]; do != nil {
		return do(message)
	}
	if a, ok := w.answers[base.String()+string(message)]; ok {
		return a, nil
	}
	return ots.Timestamp{}, fmt.Errorf("%w: pending", calendar.ErrNotYet)
}

// message is what the calendar is asked about.
func (w *world) message(name string, digest []byte) []byte {
	sum := sha256.Sum256(append(slices.Clone(digest), name...))
	return sum[:]
}

// leads is the way from a message to a block, by operations.
func (w *world) leads(message []byte, height uint64, ops ...ots.Op) ots.Timestamp {
	t, err := ots.NewTimestamp(message, ops, ots.BitcoinBlock(height))
	if err != nil {
		w.t.Error(err)
	}
	return t
}

var hash = ots.Op{Tag: ots.SHA256}

// anchor mines a block for each digest that the calendar was given, in which it
// is led to by one operation.
func (w *world) anchor(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, digest := range w.submitted[name] {
		message := w.message(name, digest)
		w.chain = append(w.chain, sha256.Sum256(message))
		w.answers[name+string(message)] = w.leads(message, uint64(len(w.chain)-1), hash)
	}
}

func (w *world) step() {
	w.t.Helper()
	if err := w.engine.Step(w.t.Context(), 1); err != nil {
		w.t.Fatal(err)
	}
}

// after lets time go by, and makes a step.
func (w *world) after(d time.Duration) {
	w.t.Helper()
	w.now = w.now.Add(d)
	w.step()
}

// wants compares the watermarks, and the states of the newest proofs by calendar.
func (w *world) wants(marks calpe.Watermarks, ofGood, ofOther ledger.ProofState) {
	w.t.Helper()
	var got calpe.Watermarks
	if err := w.db.Proofs().Watermarks(w.t.Context(), &got); err != nil || got != marks {
		w.t.Errorf("watermarks %+v, %v, want %+v", got, err, marks)
	}
	list, err := w.db.Proofs().NewestProofs(w.t.Context())
	if err != nil || len(list) != 2 || list[0].State != ofGood || list[1].State != ofOther {
		w.t.Errorf("newest proofs: %+v, %v; want %s and %s", list, err, ofGood, ofOther)
	}
}

func (w *world) logged(words string) {
	w.t.Helper()
	if !strings.Contains(w.logs.String(), words) {
		w.t.Errorf("%q isn't in the log:\n%s", words, w.logs.String())
	}
	w.logs.Reset()
}

// more lets the log grow, and an interval pass.
func (w *world) more() {
	w.grow(w.head.Size + 1)
	w.now = w.now.Add(time.Hour)
}

// final are the watermarks when everything is.
func (w *world) final() calpe.Watermarks {
	return calpe.Watermarks{Broadcast: w.head.Size, Confirmed: w.head.Size, Final: w.head.Size}
}

// TestOneDeadOneGood: a calendar that is dead costs nothing but a line in the log
// now and then; the other one anchors the log.
func TestOneDeadOneGood(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.submit[other] = func([]byte) (ots.Timestamp, error) { return ots.Timestamp{}, errors.New("connection refused") }
	w.step()
	w.wants(calpe.Watermarks{Broadcast: 5}, ledger.ProofPending, ledger.ProofWanted)
	w.logged("connection refused")
	w.after(59 * time.Second)
	if n := len(w.submitted[other]); n != 1 {
		t.Errorf("the dead calendar was tried %d times within a minute", n)
	}
	w.after(time.Second)
	if n := len(w.submitted[other]); n != 2 {
		t.Errorf("the dead calendar was tried %d times after a minute", n)
	}
	w.anchor(good)
	w.after(10 * time.Minute)
	w.wants(calpe.Watermarks{Broadcast: 5, Confirmed: 5}, ledger.ProofConfirmed, ledger.ProofWanted)
	w.mine(depth - 1)
	w.step()
	w.wants(calpe.Watermarks{Broadcast: 5, Confirmed: 5, Final: 5}, ledger.ProofFinal, ledger.ProofWanted)
	w.submit[other] = nil
	w.after(time.Minute)
	w.wants(calpe.Watermarks{Broadcast: 5, Confirmed: 5, Final: 5}, ledger.ProofFinal, ledger.ProofPending)
	if n := len(w.submitted[good]); n != 1 {
		t.Errorf("the good calendar was given %d digests", n)
	}
}

// TestInterval: the newest payload is submitted once an interval, and only if the
// log has grown. What nobody promised is covered by the next one.
func TestInterval(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.step()
	w.grow(7)
	w.after(59 * time.Minute)
	w.wants(calpe.Watermarks{Broadcast: 5}, ledger.ProofPending, ledger.ProofPending)
	down := func([]byte) (ots.Timestamp, error) { return ots.Timestamp{}, errors.New("down") }
	w.submit[good], w.submit[other] = down, down
	w.after(time.Minute)
	w.wants(calpe.Watermarks{Broadcast: 5}, ledger.ProofWanted, ledger.ProofWanted)
	w.submit[good], w.submit[other] = nil, nil
	w.grow(9)
	w.after(time.Hour)
	w.wants(calpe.Watermarks{Broadcast: 9}, ledger.ProofPending, ledger.ProofPending)
	w.after(5 * time.Hour)
	w.wants(calpe.Watermarks{Broadcast: 9}, ledger.ProofPending, ledger.ProofPending)
	if n := len(w.submitted[good]); n != 3 {
		t.Errorf("%d submissions, want one of each size", n)
	}
}

// TestNewCalendar: a calendar that is configured when the others are dead anchors
// what is there, also if the log never grows again.
func TestNewCalendar(t *testing.T) {
	t.Parallel()
	const third, fourth = "https://third.example", "https://fourth.example"
	w := newWorld(t, nil)
	down := func([]byte) (ots.Timestamp, error) { return ots.Timestamp{}, errors.New("gone for ever") }
	w.submit[good], w.submit[other] = down, down
	w.step()
	w.restart(func(c *Config) { c.URLs = []*url.URL{w.url(third), w.url(fourth)} })
	w.after(time.Minute)
	w.after(time.Minute)
	if n := len(w.submitted[third]); n != 1 {
		t.Errorf("the new calendar was given %d digests", n)
	}
	w.anchor(third)
	w.mine(depth)
	w.after(10 * time.Minute)
	var marks calpe.Watermarks
	if err := w.db.Proofs().Watermarks(t.Context(), &marks); err != nil || marks.Final != 5 {
		t.Errorf("watermarks: %+v, %v", marks, err)
	}
}

// TestHostilePromises: a promise that can't be kept is none.
func TestHostilePromises(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	for _, at := range []string{"http://127.0.0.1:5432", "http://good.example", "https://good.example/path", "https://evil.example", "https://x.calendar.opentimestamps.org:8443"} {
		w.submit[good] = func(digest []byte) (ots.Timestamp, error) { return w.promise(digest, "x", at), nil }
		w.step()
		w.wants(calpe.Watermarks{Broadcast: w.head.Size}, ledger.ProofWanted, ledger.ProofPending)
		w.logged("no calendar that may be asked")
		w.restart(nil) // it would say it once
		w.more()
	}
	pool := "https://alice.btc.calendar.opentimestamps.org"
	w.submit[good] = func(digest []byte) (ots.Timestamp, error) { return w.promise(digest, pool, pool), nil }
	w.step()
	w.wants(calpe.Watermarks{Broadcast: w.head.Size}, ledger.ProofPending, ledger.ProofPending)
	w.submitted[pool] = w.submitted[good]
	w.anchor(pool)
	w.after(10 * time.Minute)
	w.wants(calpe.Watermarks{Broadcast: w.head.Size, Confirmed: w.head.Size}, ledger.ProofConfirmed, ledger.ProofPending)
}

// TestHostileAnswers: whatever a calendar answers, nothing is confirmed but what
// the headers bear out; and the other calendar's proof gets there.
func TestHostileAnswers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	for name, tc := range map[string]struct {
		answer func(w *world, message []byte) (ots.Timestamp, error)
		words  string
	}{
		"the root of another block":   {func(w *world, m []byte) (ots.Timestamp, error) { return w.leads(m, 7, hash), nil }, "leads to the Merkle root"},
		"another root":                {func(w *world, m []byte) (ots.Timestamp, error) { return w.leads(m, 200, hash, hash), nil }, "leads to the Merkle root"},
		"a proof for another message": {func(w *world, _ []byte) (ots.Timestamp, error) { return w.leads([]byte("another"), 200, hash), nil }, "no pending attestation of this message"},
		"a block above 32 bits":       {func(w *world, m []byte) (ots.Timestamp, error) { return w.leads(m, math.MaxUint32+1, hash), nil }, "names block 4294967296"},
		"a hash that receipts haven't": {func(w *world, m []byte) (ots.Timestamp, error) {
			return w.leads(m, 200, ots.Op{Tag: ots.SHA1}), nil
		}, "0x02"},
		"no hash at the end": {func(w *world, m []byte) (ots.Timestamp, error) {
			return w.leads(m, 200, ots.Op{Tag: ots.Append, Arg: "x"}), nil
		}, "don't end with SHA-256"},
		"thousands of blocks": {func(w *world, m []byte) (ots.Timestamp, error) {
			all := w.leads(m, 1, hash)
			for height := range uint64(100) {
				var err error
				if all, err = all.Merge(w.leads(m, height, hash)); err != nil {
					return ots.Timestamp{}, err
				}
			}
			return all, nil
		}, "leads to the Merkle root"},
		"an empty timestamp": {func(*world, []byte) (ots.Timestamp, error) { return ots.Timestamp{}, nil }, "empty"},
		"what isn't one":     {func(*world, []byte) (ots.Timestamp, error) { return ots.Timestamp{}, calendar.ErrRefused }, "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			w.t = t
			w.more()
			w.complete[good] = func(message []byte) (ots.Timestamp, error) { return tc.answer(w, message) }
			w.step()
			w.anchor(other)
			w.mine(depth)
			w.after(10 * time.Minute)
			w.wants(w.final(), ledger.ProofPending, ledger.ProofFinal)
			w.logged(tc.words)
			asked := w.asked
			w.step()
			if w.asked != asked {
				t.Error("it is asked at every step")
			}
			w.complete[good] = nil // it is mended
			w.anchor(good)
			w.after(10 * time.Minute)
			w.wants(w.final(), ledger.ProofConfirmed, ledger.ProofFinal)
		})
	}
}

// TestOneOfTwoWays: of several blocks in one answer, that is taken which holds.
func TestOneOfTwoWays(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.step()
	w.anchor(good)
	w.complete[good] = func(message []byte) (ots.Timestamp, error) {
		return w.leads(message, 4, hash).Merge(w.answers[good+string(message)])
	}
	w.after(10 * time.Minute)
	w.wants(calpe.Watermarks{Broadcast: 5, Confirmed: 5}, ledger.ProofConfirmed, ledger.ProofPending)
}

// TestDeadCalendarIsAskedOnce: a calendar that can't be reached is asked about one
// of its promises in a step, not about all.
func TestDeadCalendarIsAskedOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	for size := uint64(5); size < 10; size++ {
		w.grow(size)
		w.step()
		w.now = w.now.Add(time.Hour)
	}
	asked := 0
	w.complete[good] = func([]byte) (ots.Timestamp, error) {
		asked++
		return ots.Timestamp{}, errors.New("no answer within 30s")
	}
	w.after(24 * time.Hour)
	if asked != 1 {
		t.Errorf("the dead calendar was asked %d times in a step", asked)
	}
}

// TestSlowCalendar: a calendar that takes all time there is to say nothing doesn't
// keep the other one's proof from being stored.
func TestSlowCalendar(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.step()
	w.anchor(good)
	w.slow = map[string]bool{other: true}
	w.engine.askTime = 10 * time.Millisecond
	w.after(10 * time.Minute)
	w.wants(calpe.Watermarks{Broadcast: 5, Confirmed: 5}, ledger.ProofConfirmed, ledger.ProofPending)
}

// TestReorganisation: a proof whose block goes is pending again, also a final one;
// its calendar is asked anew, and it gets final in another block. A source of
// headers that only lags changes nothing.
func TestReorganisation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.step()
	w.anchor(good)
	w.mine(depth)
	w.after(10 * time.Minute)
	w.wants(calpe.Watermarks{Broadcast: 5, Confirmed: 5, Final: 5}, ledger.ProofFinal, ledger.ProofPending)
	whole := w.chain
	w.chain = slices.Clone(whole[:150])
	w.step()
	w.wants(calpe.Watermarks{Broadcast: 5, Confirmed: 5, Final: 5}, ledger.ProofFinal, ledger.ProofPending)
	w.salt = 7
	w.mine(60)
	w.step()
	w.wants(calpe.Watermarks{Broadcast: 5}, ledger.ProofPending, ledger.ProofPending)
	w.logged("taken back")
	w.step() // the calendar still names the block that is gone
	w.wants(calpe.Watermarks{Broadcast: 5}, ledger.ProofPending, ledger.ProofPending)
	w.anchor(good)
	w.mine(depth)
	w.after(10 * time.Minute)
	w.wants(calpe.Watermarks{Broadcast: 5, Confirmed: 5, Final: 5}, ledger.ProofFinal, ledger.ProofPending)
}

// TestNobodyIsAskedAnyMore: an engine without calendars submits and asks nothing,
// and yet no proof outlives its block; what is deep enough gets final.
func TestNobodyIsAskedAnyMore(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	compareOnly := func(c *Config) { c.Calendars, c.URLs = nil, nil }
	noNode := func(c *Config) { compareOnly(c); c.Headers = noHeaders{t} }
	w.restart(noNode)
	w.step() // there is no proof yet
	w.restart(nil)
	w.step()
	w.anchor(good)
	w.after(10 * time.Minute)
	w.wants(calpe.Watermarks{Broadcast: 5, Confirmed: 5}, ledger.ProofConfirmed, ledger.ProofPending)
	submitted, asked := len(w.submitted[good]), w.asked

	w.restart(compareOnly)
	w.grow(9)
	w.mine(depth)
	w.after(24 * time.Hour)
	w.wants(calpe.Watermarks{Broadcast: 5, Confirmed: 5, Final: 5}, ledger.ProofFinal, ledger.ProofPending)
	w.chain = w.chain[:150]
	w.salt = 7
	w.mine(60)
	w.after(24 * time.Hour)
	w.wants(calpe.Watermarks{Broadcast: 5}, ledger.ProofPending, ledger.ProofPending)
	if stamp, err := w.db.Proofs().TimestampFor(t.Context(), 0); !errors.Is(err, calpe.ErrNotFound) {
		t.Errorf("a receipt has a proof whose block is gone: %+v, %v", stamp, err)
	}
	w.logged("taken back")
	if len(w.submitted[good]) != submitted || w.asked != asked {
		t.Errorf("%d submissions and %d questions, want %d and %d as before", len(w.submitted[good]), w.asked, submitted, asked)
	}
}

// noHeaders fails the test when it is asked.
type noHeaders struct{ t *testing.T }

func (h noHeaders) Tip(context.Context) (uint32, calpe.BlockHash, error) {
	h.t.Error("headers are read for nothing")
	return 0, calpe.BlockHash{}, errors.New("no headers")
}

func (h noHeaders) At(context.Context, uint32) ([calpe.HeaderSize]byte, error) {
	return [calpe.HeaderSize]byte{}, errors.New("no headers")
}

// TestSecondNode: what the second node doesn't confirm isn't final, all else goes
// on, and the log tells once.
func TestSecondNode(t *testing.T) {
	t.Parallel()
	disagrees := errors.New("it has another block")
	var heights []uint32
	w := newWorld(t, func(c *Config) {
		c.Agrees = func(_ context.Context, height uint32, block calpe.BlockHash) error {
			heights = append(heights, height)
			if block == (calpe.BlockHash{}) {
				t.Error("it is asked about no block")
			}
			return disagrees
		}
	})
	w.step()
	w.anchor(good)
	w.anchor(other)
	w.after(10 * time.Minute)
	if len(heights) != 0 {
		t.Errorf("the second node was asked about %v before anything was deep enough", heights)
	}
	w.mine(depth)
	w.step()
	w.wants(calpe.Watermarks{Broadcast: 5, Confirmed: 5}, ledger.ProofConfirmed, ledger.ProofConfirmed)
	w.logged("it has another block")
	w.step()
	w.wants(calpe.Watermarks{Broadcast: 5, Confirmed: 5}, ledger.ProofConfirmed, ledger.ProofConfirmed)
	if strings.Contains(w.logs.String(), "second node") {
		t.Error("it is told again")
	}
	disagrees = nil
	w.step() // at the same tip
	w.wants(calpe.Watermarks{Broadcast: 5, Confirmed: 5, Final: 5}, ledger.ProofFinal, ledger.ProofFinal)
	w.logged("confirms the blocks of proofs again")
}

// TestHeadersEnd: a block above the newest header is waited for.
func TestHeadersEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.step()
	w.anchor(good)
	whole := w.chain
	w.chain = whole[:150]
	w.after(10 * time.Minute)
	w.wants(calpe.Watermarks{Broadcast: 5}, ledger.ProofPending, ledger.ProofPending)
	w.chain = whole
	w.after(10 * time.Minute)
	w.wants(calpe.Watermarks{Broadcast: 5, Confirmed: 5}, ledger.ProofConfirmed, ledger.ProofPending)
}

// TestWithoutHeaders: without headers nothing is confirmed, and receipts show what
// calendars say. Once headers are known, it is confirmed, or taken back.
func TestWithoutHeaders(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.Headers = nil })
	w.step()
	w.anchor(good)
	w.complete[other] = func(message []byte) (ots.Timestamp, error) { return w.leads(message, 7, hash), nil }
	w.after(10 * time.Minute)
	w.wants(calpe.Watermarks{Broadcast: 5}, ledger.ProofAttested, ledger.ProofAttested)
	if stamp, err := w.db.Proofs().TimestampFor(t.Context(), 0); err != nil || stamp.Checked() || stamp.Final {
		t.Errorf("timestamp: %+v, %v", stamp, err)
	}
	w.restart(nil)
	w.mine(depth)
	w.step()
	w.wants(calpe.Watermarks{Broadcast: 5, Confirmed: 5, Final: 5}, ledger.ProofFinal, ledger.ProofPending)
	w.logged("another Merkle root")
}

// TestAlarms begin and end once in the log.
func TestAlarms(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	down := func([]byte) (ots.Timestamp, error) { return ots.Timestamp{}, errors.New("down") }
	w.submit[good], w.submit[other] = down, down
	for range 4 {
		w.step()
		w.now = w.now.Add(time.Hour)
	}
	for _, said := range []bool{true, false} {
		w.step()
		if got := strings.Contains(w.logs.String(), "no calendar takes"); got != said {
			t.Errorf("silence is told: %v\n%s", got, w.logs.String())
		}
		w.logs.Reset()
	}
	w.submit[good] = nil
	w.after(time.Minute)
	w.logged("calendars work again")
	w.after(11 * time.Hour)
	w.logged("keep none of their promises")
	w.anchor(good)
	w.after(2 * time.Hour)
	w.logged("calendars work again")
}

// count is how often the log has said something since it was last asked.
func (w *world) count(words string) int { return strings.Count(w.logs.String(), words) }

// TestOneOfTwoFails: one calendar of two that takes nothing, or answers nothing, is
// told once when it begins and once when it ends, and the alarm is of that one alone.
func TestOneOfTwoFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	judged := func(want Alarm) {
		t.Helper()
		each, err := w.db.Proofs().ProofSummaries(t.Context(), w.engine.Calendars())
		if err != nil || len(each) != 2 {
			t.Fatalf("summaries %+v, %v", each, err)
		}
		if got := w.engine.Limits().Judge(each[0], w.now); got != AlarmNone {
			t.Errorf("the good calendar is %s: %+v", got, each[0])
		}
		if got := w.engine.Limits().Judge(each[1], w.now); got != want {
			t.Errorf("the other calendar is %s, want %s: %+v", got, want, each[1])
		}
	}
	w.submit[other] = func([]byte) (ots.Timestamp, error) { return ots.Timestamp{}, errors.New("refused connection") }
	w.step()
	judged(AlarmNone)
	for range 4 {
		w.after(30 * time.Minute)
		w.more()
		w.step()
		w.anchor(good)
	}
	judged(AlarmSilent)
	if n := w.count("doesn't take"); n != 1 || w.count("refused connection") != 1 || w.count("no calendar") != 0 {
		t.Errorf("it is told %d times:\n%s", n, w.logs.String())
	}
	w.submit[other] = nil
	w.after(time.Hour)
	judged(AlarmNone)
	w.logged("takes what is to be anchored again\" calendar=" + other)

	w.complete[other] = func([]byte) (ots.Timestamp, error) { return ots.Timestamp{}, errors.New("cut off") }
	for range 12 {
		w.more()
		w.step()
		w.anchor(good)
	}
	w.after(time.Hour)
	judged(AlarmStalled)
	if n := w.count("hasn't kept"); n != 1 || w.count("calendar="+other) < 1 || w.count("none of their promises") != 0 {
		t.Errorf("it is told %d times:\n%s", n, w.logs.String())
	}
	w.complete[other] = nil
	w.after(100 * time.Hour)
	w.logged("answers about its promise again")
	w.anchor(other)
	w.after(100 * time.Hour)
	judged(AlarmNone)
}

// brokenHeaders can be read while err is nil.
type brokenHeaders struct {
	Headers
	err error
}

func (h *brokenHeaders) Tip(ctx context.Context) (uint32, calpe.BlockHash, error) {
	if h.err != nil {
		return 0, calpe.BlockHash{}, h.err
	}
	return h.Headers.Tip(ctx)
}

// TestHeadersAreDown: that isn't said to be the calendar's fault. It is told once,
// and what the calendar answers is taken when the headers are back.
func TestHeadersAreDown(t *testing.T) {
	t.Parallel()
	h := &brokenHeaders{}
	w := newWorld(t, func(c *Config) { h.Headers, c.Headers = c.Headers, h })
	w.step()
	w.anchor(good)
	h.err = errors.New("node is down")
	for range 3 {
		w.now = w.now.Add(time.Hour)
		if err := w.engine.Step(t.Context(), 1); !errors.Is(err, h.err) {
			t.Errorf("Step = %v", err)
		}
	}
	if w.count("kept its promise") != 0 || w.count("headers can't be read") != 1 || w.count("step failed") != 1 {
		t.Errorf("the log says:\n%s", w.logs.String())
	}
	w.wants(calpe.Watermarks{Broadcast: 5}, ledger.ProofPending, ledger.ProofPending)
	h.err = nil
	w.after(time.Hour)
	w.wants(calpe.Watermarks{Broadcast: 5, Confirmed: 5}, ledger.ProofConfirmed, ledger.ProofPending)
	if w.count("is compared again") != 1 || w.count("steps succeed again") != 1 {
		t.Errorf("the log says:\n%s", w.logs.String())
	}
}

// faultyStore fails one write, before or after it is applied.
type faultyStore struct {
	Store
	left    int  // writes that work before
	applied bool // the one that fails is applied
}

var errStore = errors.New("the connection broke")

func (f *faultyStore) do(write func() error) error {
	f.left--
	if f.left != -1 {
		return write()
	}
	if f.applied {
		if err := write(); err != nil {
			return err
		}
	}
	return errStore
}

func (f *faultyStore) WantProofs(ctx context.Context, epoch uint64, p calpe.Payload, calendars []string, at time.Time) error {
	return f.do(func() error { return f.Store.WantProofs(ctx, epoch, p, calendars, at) })
}

func (f *faultyStore) StorePromise(ctx context.Context, epoch uint64, id ledger.ProofID, promise []byte, at time.Time) error {
	return f.do(func() error { return f.Store.StorePromise(ctx, epoch, id, promise, at) })
}

func (f *faultyStore) MarkAsked(ctx context.Context, epoch uint64, id ledger.ProofID, at time.Time) error {
	return f.do(func() error { return f.Store.MarkAsked(ctx, epoch, id, at) })
}

func (f *faultyStore) StoreWay(ctx context.Context, epoch uint64, id ledger.ProofID, way ledger.Attestation, at time.Time) error {
	return f.do(func() error { return f.Store.StoreWay(ctx, epoch, id, way, at) })
}

func (f *faultyStore) MakeProofFinal(ctx context.Context, epoch uint64, id ledger.ProofID) error {
	return f.do(func() error { return f.Store.MakeProofFinal(ctx, epoch, id) })
}

// TestFaultsOfTheStore: each write fails once, applied or not, and the engine is
// made anew: it goes on from what is stored, and all gets final (I8).
func TestFaultsOfTheStore(t *testing.T) {
	t.Parallel()
	w, reached := newWorld(t, nil), 0
	for n := range 9 {
		for _, applied := range []bool{false, true} {
			t.Run(fmt.Sprintf("write %d, applied %v", n, applied), func(t *testing.T) {
				w.t = t
				w.more()
				clear(w.answers)
				clear(w.submitted)
				w.restart(func(c *Config) { c.Store = &faultyStore{c.Store, n, applied} })
				failed := false
				for range 8 {
					err := w.engine.Step(t.Context(), 1)
					if err != nil && !errors.Is(err, errStore) {
						t.Fatal(err)
					}
					if err != nil {
						failed = true
						w.restart(nil)
					}
					w.now = w.now.Add(20 * time.Minute)
					if len(w.answers) == 0 && len(w.submitted[good]) > 0 {
						w.anchor(good)
						w.anchor(other)
						w.mine(depth)
					}
				}
				if failed {
					reached++
				}
				w.wants(w.final(), ledger.ProofFinal, ledger.ProofFinal)
			})
		}
	}
	if reached < 12 {
		t.Errorf("only %d faults happened", reached)
	}
}

// TestFormerLeader stops.
func TestFormerLeader(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	if err := w.engine.Run(t.Context(), 2); !errors.Is(err, calpe.ErrLostLeadership) {
		t.Errorf("Run = %v", err)
	}
	if len(w.submitted) > 0 {
		t.Error("a former leader submits")
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	w := &world{t: t}
	all := Config{Store: (*postgres.Proofs)(nil), Log: w, Calendars: w, URLs: []*url.URL{w.url(good), w.url(other)}}
	if _, err := New(all); err != nil {
		t.Fatal(err)
	}
	for words, edit := range map[string]func(*Config){
		"lacks its":        func(c *Config) { c.Log = nil },
		"lacks what asks":  func(c *Config) { c.Calendars = nil },
		"nothing to do":    func(c *Config) { c.Calendars, c.URLs = nil, nil },
		"two or more":      func(c *Config) { c.URLs = c.URLs[:1] },
		"negative":         func(c *Config) { c.Stall = -1 },
		"configured twice": func(c *Config) { c.URLs = []*url.URL{w.url(good), w.url(good + "/")} },
	} {
		cfg := all
		edit(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("New = %v, want %q", err, words)
		}
	}
}

// TestFileHeaders: the file is verified whole, and read again when it has changed.
func TestFileHeaders(t *testing.T) {
	t.Parallel()
	params, err := headers.ParamsFor(calpe.Regtest)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "headers.bin")
	h, err := NewFileHeaders(path, calpe.Regtest)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.Tip(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	for _, bad := range [][]byte{nil, params.Genesis[:79], make([]byte, calpe.HeaderSize)} {
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := h.Tip(t.Context()); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%d bytes: %v", len(bad), err)
		}
	}
	for _, name := range []string{"headers.bin", "headers-end.bin"} {
		raw, err := os.ReadFile(filepath.Join("../../docs/vectors", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		last := len(raw)/calpe.HeaderSize - 1
		tip, hash, err := h.Tip(t.Context())
		header, headerErr := h.At(t.Context(), uint32(last))
		if err != nil || headerErr != nil || int(tip) != last || hash != hashOf(header) || !bytes.Equal(header[:], raw[last*calpe.HeaderSize:]) {
			t.Errorf("%s: tip %d %s, %v, %v", name, tip, hash, err, headerErr)
		}
		if _, err := h.At(t.Context(), tip+1); err == nil {
			t.Error("there is a header above the tip")
		}
	}
}

// TestFileHeadersGrow: what is new in a file is added to what is known; a file that
// ends earlier, is another one or is broken behind what is known is read anew.
func TestFileHeadersGrow(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../../docs/vectors/headers.bin")
	if err != nil {
		t.Fatal(err)
	}
	n := len(raw) / calpe.HeaderSize
	if n < 10 {
		t.Fatalf("the file has %d headers", n)
	}
	path := filepath.Join(t.TempDir(), "headers.bin")
	h, err := NewFileHeaders(path, calpe.Regtest)
	if err != nil {
		t.Fatal(err)
	}
	broken := slices.Clone(raw)
	broken[len(raw)-60] ^= 1
	for i, tc := range []struct {
		file []byte
		tip  int // -1: it is refused
	}{
		{raw[:5*calpe.HeaderSize], 4}, {raw[:7*calpe.HeaderSize], 6}, {broken, -1}, {raw[:len(raw)-1], -1}, {raw, n - 1}, {raw[:3*calpe.HeaderSize], 2}, {raw, n - 1},
	} {
		if err := os.WriteFile(path, tc.file, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Time{}, time.Unix(int64(1000+i), 0)); err != nil {
			t.Fatal(err)
		}
		tip, hash, err := h.Tip(t.Context())
		switch {
		case tc.tip < 0 && err == nil:
			t.Errorf("file %d is taken, to block %d", i, tip)
		case tc.tip >= 0 && (err != nil || int(tip) != tc.tip || hash != hashOf([calpe.HeaderSize]byte(raw[tc.tip*calpe.HeaderSize:]))):
			t.Errorf("file %d: tip %d %s, %v; want block %d", i, tip, hash, err, tc.tip)
		}
	}
	whole := h.last().chain
	if same, err := extend(whole, bytes.NewReader(raw)); err != nil || same != whole {
		t.Errorf("the same file extends its chain: %v", err)
	}
	if chain, err := extend(whole, bytes.NewReader(raw[:5*calpe.HeaderSize])); err == nil {
		t.Errorf("a file that ends earlier extends the chain: %v", chain)
	}
}

// TestFileHeadersHeedContext: who waits or reads stops when the context ends; who
// needs neither is served.
func TestFileHeadersHeedContext(t *testing.T) {
	t.Parallel()
	h, err := NewFileHeaders("../../docs/vectors/headers.bin", calpe.Regtest)
	if err != nil {
		t.Fatal(err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	for _, read := range []bool{true, false} { // somebody else reads, or it would
		if read {
			h.reading <- struct{}{}
		}
		if _, _, err := h.Tip(ended); !errors.Is(err, context.Canceled) {
			t.Errorf("Tip = %v", err)
		}
		if read {
			<-h.reading
		}
	}
	if _, _, err := h.Tip(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.reading <- struct{}{}
	if _, _, err := h.Tip(ended); err != nil {
		t.Errorf("what is known isn't given while somebody reads: %v", err)
	}
}
