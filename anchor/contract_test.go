package anchor_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/storage/postgres"
	"github.com/calpe/calpe/storage/postgres/postgrestest"
)

var _ anchor.Store = (*postgres.Anchors)(nil)

// pgStore is the store of a fresh database, in which triggers hold every move
// of an attempt or a coin against the state tables of package ledger. Epoch 1 leads.
func pgStore(t *testing.T) (store *postgres.Anchors, url string) {
	t.Helper()
	url = postgrestest.URL(t)
	db, err := postgres.Open(t.Context(), postgres.Config{URL: url, MaxConns: 4})
	if err != nil {
		t.Fatalf("open database: %v", err)
	}
	t.Cleanup(db.Close)
	guardMoves(t, url, "attempt", ledger.AttemptEdges())
	guardMoves(t, url, "coin", ledger.CoinEdges())
	execSQL(t, url, `UPDATE leader SET epoch = 1 WHERE role = 'anchor'`)
	return db.Anchors(), url
}

// guardMoves lets a table refuse every state that a row doesn't come to by an edge.
func guardMoves[S ~string](t *testing.T, url, table string, edges []ledger.Edge[S]) {
	t.Helper()
	var pairs []string
	for _, e := range edges {
		pairs = append(pairs, fmt.Sprintf("('%s', '%s')", e.From, e.To))
	}
	execSQL(t, url, fmt.Sprintf(`CREATE FUNCTION check_%[1]s() RETURNS trigger LANGUAGE plpgsql AS $$
		DECLARE former text := '';
		BEGIN
			IF TG_OP = 'UPDATE' THEN former := OLD.state; END IF;
			IF former <> NEW.state AND (former, NEW.state) NOT IN (%[2]s) THEN
				RAISE EXCEPTION '%[1]s moves from %% to %%, which the table has not', former, NEW.state;
			END IF;
			RETURN NEW;
		END $$`, table, strings.Join(pairs, ", ")))
	execSQL(t, url, fmt.Sprintf(`CREATE TRIGGER check_%[1]s BEFORE INSERT OR UPDATE ON %[1]s FOR EACH ROW EXECUTE FUNCTION check_%[1]s()`, table))
}

func execSQL(t *testing.T, url, sql string, args ...any) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("exec: %v", err)
	}
}

// forEachStore runs a test on the model and on Postgres.
func forEachStore(t *testing.T, test func(t *testing.T, store firstStore, takeOver func())) {
	t.Run("memory", func(t *testing.T) {
		s := newMemStore()
		test(t, s, func() { s.takeOver() })
	})
	t.Run("postgres", func(t *testing.T) {
		s, url := pgStore(t)
		test(t, s, func() { execSQL(t, url, `UPDATE leader SET epoch = epoch + 1 WHERE role = 'anchor'`) })
	})
}

// prepared is a world whose store holds a signed attempt of the first coin.
func prepared(t *testing.T, store firstStore) (*world, ledger.Attempt) {
	t.Helper()
	w := newWorld(t, store)
	w.log.grow(3)
	w.node.answer = &ledger.Answer{Kind: ledger.FeeTooLow, Text: "min relay fee not met"}
	w.mustStep()
	w.node.answer = nil
	return w, w.only()
}

// Every write refuses what doesn't fit the rows, or the epoch, and changes nothing.
func TestStoreRefusals(t *testing.T) {
	forEachStore(t, func(t *testing.T, store firstStore, takeOver func()) {
		w, a := prepared(t, store)
		ctx := t.Context()
		before := w.snapshot()
		tip := before.Tip
		other := calpe.BlockHash{9}
		next := ledger.Block{Height: tip.Height + 1, Hash: other}
		copy(next.Header[4:], tip.Hash[:])
		unlinked := ledger.Block{Height: tip.Height + 1, Hash: other}
		journal := w.journal()
		second := a
		second.TxID, second.State, second.Raw = other, ledger.Created, nil
		second.Inputs = a.Inputs[:1]
		foreignCoin := second
		foreignCoin.Coin.Vout = 77
		foreignCoin.Inputs = []ledger.Input{{Outpoint: foreignCoin.Coin, Output: a.Inputs[0].Output}}
		writes := map[string]struct {
			write func(epoch uint64) error
			want  error
		}{
			"create with the same number": {func(e uint64) error { return store.CreateAttempt(ctx, e, second) }, ledger.ErrConflict},
			"create of an unknown coin":   {func(e uint64) error { return store.CreateAttempt(ctx, e, foreignCoin) }, ledger.ErrConflict},
			"sign what is signed":         {func(e uint64) error { return store.StoreSigned(ctx, e, a.TxID, a.Raw) }, ledger.ErrConflict},
			"sign what isn't there":       {func(e uint64) error { return store.StoreSigned(ctx, e, other, a.Raw) }, ledger.ErrConflict},
			"answer for what isn't there": {func(e uint64) error {
				return store.RecordAnswer(ctx, e, other, ledger.Answer{Kind: ledger.Later}, w.now)
			}, ledger.ErrConflict},
			"final without a block":        {func(e uint64) error { return store.MarkFinal(ctx, e, a.TxID) }, ledger.ErrConflict},
			"a block that doesn't link":    {func(e uint64) error { return store.ConnectBlock(ctx, e, unlinked, nil) }, ledger.ErrConflict},
			"a block again":                {func(e uint64) error { return store.ConnectBlock(ctx, e, tip, nil) }, ledger.ErrConflict},
			"rewind to the tip":            {func(e uint64) error { return store.Rewind(ctx, e, tip, tip) }, ledger.ErrConflict},
			"rewind from below the tip":    {func(e uint64) error { return store.Rewind(ctx, e, journal[1], journal[0]) }, ledger.ErrConflict},
			"rewind to what isn't there":   {func(e uint64) error { return store.Rewind(ctx, e, tip, ledger.Block{Height: 1, Hash: other}) }, ledger.ErrConflict},
			"find a coin that isn't lost":  {event(ctx, store, next, ledger.Event{Found: &ledger.FoundCoin{Coin: a.Coin}}), ledger.ErrConflict},
			"spend a coin that isn't live": {event(ctx, store, next, ledger.Event{Foreign: &ledger.ForeignSpend{Coin: calpe.Outpoint{TxID: other}, TxID: other}}), ledger.ErrConflict},
			"a deposit again":              {event(ctx, store, next, ledger.Event{Deposit: before.Live}), ledger.ErrConflict},
			"mine with a deposit that isn't there": {event(ctx, store, next, ledger.Event{Mined: &ledger.MinedAttempt{
				Coin: a.Coin, Deposits: []calpe.Outpoint{{TxID: other}}, Evidence: calpe.Anchor{TxID: a.TxID},
			}}), ledger.ErrConflict},
			"mine what isn't there": {event(ctx, store, next, ledger.Event{Mined: &ledger.MinedAttempt{Coin: a.Coin, Evidence: calpe.Anchor{TxID: other}}}), ledger.ErrConflict},
		}
		for name, row := range writes {
			if err := row.write(1); !errors.Is(err, row.want) {
				t.Errorf("%s: error %v, want %v", name, err, row.want)
			}
		}
		if diff := diffSnapshots(before, w.snapshot()); diff != "" {
			t.Errorf("a refused write changed something:\n%s", diff)
		}
		takeOver()
		writes["a good answer"] = struct {
			write func(epoch uint64) error
			want  error
		}{write: func(e uint64) error {
			return store.RecordAnswer(ctx, e, a.TxID, ledger.Answer{Kind: ledger.Accepted}, w.now)
		}}
		writes["a good block"] = struct {
			write func(epoch uint64) error
			want  error
		}{write: func(e uint64) error { return store.ConnectBlock(ctx, e, next, nil) }}
		writes["a good rewind"] = struct {
			write func(epoch uint64) error
			want  error
		}{write: func(e uint64) error { return store.Rewind(ctx, e, tip, journal[0]) }}
		for name, row := range writes {
			if err := row.write(1); !errors.Is(err, calpe.ErrLostLeadership) {
				t.Errorf("%s after a take-over: error %v, want %v", name, err, calpe.ErrLostLeadership)
			}
		}
		if diff := diffSnapshots(before, w.snapshot()); diff != "" {
			t.Errorf("a write of a former leader changed something:\n%s", diff)
		}
	})
}

func event(ctx context.Context, store firstStore, b ledger.Block, ev ledger.Event) func(uint64) error {
	return func(epoch uint64) error { return store.ConnectBlock(ctx, epoch, b, []ledger.Event{ev}) }
}

func TestStoreFirstCoin(t *testing.T) {
	forEachStore(t, func(t *testing.T, store firstStore, _ func()) {
		w := emptyWorld(t, store)
		if snap := w.snapshot(); snap.Tip != (ledger.Block{}) || snap.Live != nil {
			t.Fatalf("an empty store has %+v", snap)
		}
		w.node.empty(3)
		w.begin(500_000)
		before := w.snapshot()
		if before.Live == nil || before.Live.Value != 500_000 || before.Tip.Height != 4 || len(w.journal()) != 5 {
			t.Fatalf("after the first coin: %+v", before)
		}
		d, err := anchor.FindDeposit(t.Context(), w.node, w.signer.Script(), 0, 1000)
		if err != nil {
			t.Fatalf("find deposit: %v", err)
		}
		if err := store.InsertFirstCoin(t.Context(), d.Coin, d.Blocks); err != nil {
			t.Errorf("the same coin again: %v", err)
		}
		d.Coin.Outpoint.Vout++
		if err := store.InsertFirstCoin(t.Context(), d.Coin, d.Blocks); !errors.Is(err, ledger.ErrRootExists) {
			t.Errorf("another first coin: %v, want %v", err, ledger.ErrRootExists)
		}
		if diff := diffSnapshots(before, w.snapshot()); diff != "" {
			t.Errorf("it changed something:\n%s", diff)
		}
	})
}

// Postgres times have microseconds, and its own zone.
func diffSnapshots(a, b ledger.Snapshot) string {
	return gocmp.Diff(a, b, cmpopts.EquateEmpty(), cmpopts.EquateApproxTime(time.Millisecond))
}

// twin writes to the model and to Postgres, and fails the test when one of them
// answers or reads otherwise than the other.
type twin struct {
	*postgres.Anchors
	t     *testing.T
	model *memStore
}

func (s *twin) both(what string, pg, model error) error {
	s.t.Helper()
	for _, sentinel := range []error{nil, ledger.ErrConflict, calpe.ErrLostLeadership, ledger.ErrRootExists} {
		if errors.Is(pg, sentinel) != errors.Is(model, sentinel) {
			s.t.Fatalf("%s: postgres says %v, the model %v", what, pg, model)
		}
	}
	return pg
}

func (s *twin) InsertFirstCoin(ctx context.Context, coin ledger.Coin, blocks []ledger.Block) error {
	return s.both("first coin", s.Anchors.InsertFirstCoin(ctx, coin, blocks), s.model.InsertFirstCoin(ctx, coin, blocks))
}

func (s *twin) RestartChain(ctx context.Context, b ledger.Break, r calpe.ChainBreak) error {
	return s.both("restart", s.Anchors.RestartChain(ctx, b, r), s.model.RestartChain(ctx, b, r))
}

func (s *twin) CreateAttempt(ctx context.Context, epoch uint64, a ledger.Attempt) error {
	return s.both("create", s.Anchors.CreateAttempt(ctx, epoch, a), s.model.CreateAttempt(ctx, epoch, a))
}

func (s *twin) StoreSigned(ctx context.Context, epoch uint64, txid calpe.BlockHash, raw []byte) error {
	return s.both("signed", s.Anchors.StoreSigned(ctx, epoch, txid, raw), s.model.StoreSigned(ctx, epoch, txid, raw))
}

func (s *twin) RecordAnswer(ctx context.Context, epoch uint64, txid calpe.BlockHash, answer ledger.Answer, at time.Time) error {
	return s.both("answer", s.Anchors.RecordAnswer(ctx, epoch, txid, answer, at), s.model.RecordAnswer(ctx, epoch, txid, answer, at))
}

func (s *twin) ConnectBlock(ctx context.Context, epoch uint64, b ledger.Block, events []ledger.Event) error {
	return s.both("connect", s.Anchors.ConnectBlock(ctx, epoch, b, events), s.model.ConnectBlock(ctx, epoch, b, events))
}

func (s *twin) Rewind(ctx context.Context, epoch uint64, tip, fork ledger.Block) error {
	return s.both("rewind", s.Anchors.Rewind(ctx, epoch, tip, fork), s.model.Rewind(ctx, epoch, tip, fork))
}

func (s *twin) MarkFinal(ctx context.Context, epoch uint64, txid calpe.BlockHash) error {
	return s.both("final", s.Anchors.MarkFinal(ctx, epoch, txid), s.model.MarkFinal(ctx, epoch, txid))
}

func (s *twin) Spent(ctx context.Context, from, to time.Time) (int64, error) {
	pg, err := s.Anchors.Spent(ctx, from, to)
	model, errModel := s.model.Spent(ctx, from, to)
	if err := s.both("spent", err, errModel); err == nil && pg != model {
		s.t.Fatalf("spent by postgres' rows are %d sat, by the model's %d", pg, model)
	}
	return pg, err
}

func (s *twin) Snapshot(ctx context.Context) (ledger.Snapshot, error) {
	pg, err := s.Anchors.Snapshot(ctx)
	model, errModel := s.model.Snapshot(ctx)
	if err := s.both("snapshot", err, errModel); err != nil {
		return pg, err
	}
	if diff := diffSnapshots(model, pg); diff != "" {
		s.t.Fatalf("snapshot of postgres differs from the model's (-model +postgres):\n%s", diff)
	}
	// And what receipts read.
	ctxEnd := context.WithoutCancel(ctx)
	var wm calpe.Watermarks
	if err := s.Watermarks(ctxEnd, &wm); err != nil {
		s.t.Fatalf("watermarks: %v", err)
	}
	anchored, err := s.Anchored(ctxEnd)
	if err != nil || anchored != model.Anchored || wm.Confirmed != model.Anchored || wm.Final > wm.Confirmed || wm.Confirmed > wm.Broadcast {
		s.t.Fatalf("watermarks are %+v, anchored %d (%v), the model has %d", wm, anchored, err, model.Anchored)
	}
	return pg, nil
}

// The same random life on both, compared at every read.
func TestPostgresIsTheModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	pg, _ := pgStore(t)
	w := newWorld(t, &twin{Anchors: pg, t: t, model: newMemStore()})
	randomLife(t, w, rand.New(rand.NewPCG(seed, 1)), 250)
	checkReads(t, w, pg)
}

// checkReads holds what receipts take against the chain.
func checkReads(t *testing.T, w *world, pg *postgres.Anchors) {
	t.Helper()
	ctx := t.Context()
	all, err := pg.List(ctx, 1<<31, 1000)
	if err != nil || len(all) == 0 {
		t.Fatalf("list of %d anchors: %v", len(all), err)
	}
	for i, a := range all {
		checkEvidence(t, a)
		if i > 0 && cmp.Compare(a.Height, all[i-1].Height) > 0 {
			t.Errorf("anchor %d of the list is not older than its predecessor", i)
		}
		if got, err := pg.AnchorOfSize(ctx, a.Size); err != nil || got.Size != a.Size {
			t.Errorf("anchor of size %d: %+v, %v", a.Size, got, err)
		}
		tip := w.snapshot().Tip.Height
		if a.Depth != tip-a.Height+1 {
			t.Errorf("anchor at %d has depth %d under a tip at %d", a.Height, a.Depth, tip)
		}
	}
	oldest, newest := all[len(all)-1], all[0]
	if a, err := pg.AnchorFor(ctx, 0); err != nil || a.TxID != oldest.TxID {
		t.Errorf("anchor of entry 0 is %v (%v), want %v", a.TxID, err, oldest.TxID)
	}
	if a, err := pg.AnchorFor(ctx, newest.Size-1); err != nil || a.TxID != newest.TxID || !a.Final {
		t.Errorf("anchor of entry %d is %+v (%v)", newest.Size-1, a, err)
	}
	for _, index := range []uint64{newest.Size, calpe.MaxLogSize, math.MaxInt64, math.MaxInt64 + 1, math.MaxUint64} {
		if _, err := pg.AnchorFor(ctx, index); !errors.Is(err, calpe.ErrNotFound) {
			t.Errorf("anchor of entry %d, which isn't covered: %v", index, err)
		}
	}
	if _, err := pg.AnchorOfSize(ctx, newest.Size+1); !errors.Is(err, calpe.ErrNotFound) {
		t.Errorf("anchor of a size that isn't anchored: %v", err)
	}
	attempts, err := pg.Attempts(ctx, 1)
	if err != nil || len(attempts) != 1 || len(attempts[0].Inputs) == 0 {
		t.Errorf("newest attempt: %+v, %v", attempts, err)
	}
	checkMovements(t, w, pg)
	if c, err := pg.LiveCoin(ctx); err != nil || c.Outpoint != w.snapshot().Live.Outpoint {
		t.Errorf("live coin: %+v, %v", c, err)
	}
}

// checkMovements: every satoshi of the coin and of the deposits is accounted for.
func checkMovements(t *testing.T, w *world, pg *postgres.Anchors) {
	t.Helper()
	all, err := pg.Movements(t.Context())
	if err != nil || len(all) < 2 || all[0].Kind != ledger.MovedIn {
		t.Fatalf("%d movements, the first is %+v (%v)", len(all), all[0], err)
	}
	var sum int64
	var size uint64
	for i, m := range all {
		sum += m.Amount
		if block := w.node.chain[m.Height]; !m.Time.Equal(block.Header.Timestamp) || i > 0 && m.Height < all[i-1].Height || sum < 0 {
			t.Errorf("movement %d is %+v; after it there are %d sat", i, m, sum)
		}
		if m.Kind == ledger.MovedFee {
			if m.Fee <= 0 || m.Amount != -m.Fee || m.FeeRate() < ledger.SatPerVB || m.Size <= size {
				t.Errorf("anchor after size %d: %+v", size, m)
			}
			size = m.Size
		}
	}
	snap := w.snapshot()
	want := snap.Live.Value
	deposits, err := pg.Deposits(t.Context())
	for _, d := range deposits {
		want += d.Value
	}
	if err != nil || sum != want || size != snap.Anchored {
		t.Errorf("movements come to %d sat and %d entries, there are %d and %d (%v)", sum, size, want, snap.Anchored, err)
	}
}
