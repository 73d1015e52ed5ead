package postgres

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/migrations"
	"github.com/calpe/calpe/storage/postgres/postgrestest"
)

const (
	calendarA = "https://a.example"
	calendarB = "https://b.example"
)

func proofPayload(size uint64) calpe.Payload {
	return calpe.Payload{Size: size, Root: calpe.Hash{byte(size)}}
}

// openProofs has the epoch 1 of the anchor's leader.
func openProofs(t *testing.T) (*DB, string) {
	t.Helper()
	url := postgrestest.URL(t)
	db := openURL(t, url)
	postgrestest.Exec(t, url, `UPDATE leader SET epoch = 1 WHERE role = 'anchor'`)
	return db, url
}

var (
	uncheckedWay = ledger.Attestation{Operations: []byte{8}, Height: 7}
	checkedWay   = ledger.Attestation{Operations: []byte{8, 8}, Height: 9, Block: calpe.BlockHash{9}, Header: [calpe.HeaderSize]byte{9}}
)

// moves are the writes that change a proof's state.
func (s *Proofs) moves(t *testing.T, epoch uint64, id ledger.ProofID) map[string]func() error {
	ctx := t.Context()
	return map[string]func() error{
		"promise": func() error { return s.StorePromise(ctx, epoch, id, []byte{1}, testTime.Add(time.Second)) },
		"asked":   func() error { return s.MarkAsked(ctx, epoch, id, testTime.Add(time.Minute)) },
		"attest":  func() error { return s.StoreWay(ctx, epoch, id, uncheckedWay, testTime.Add(time.Hour)) },
		"lead":    func() error { return s.StoreWay(ctx, epoch, id, checkedWay, testTime.Add(time.Hour)) },
		"confirm": func() error { return s.ConfirmProof(ctx, epoch, id, checkedWay.Block, checkedWay.Header) },
		"final":   func() error { return s.MakeProofFinal(ctx, epoch, id) },
		"back":    func() error { return s.TakeProofBack(ctx, epoch, id) },
	}
}

// TestProofMoves makes every write in every state: what the table doesn't allow,
// and what a former leader writes, changes nothing.
func TestProofMoves(t *testing.T) {
	t.Parallel()
	db, _ := openProofs(t)
	s := db.Proofs()
	ways := map[ledger.ProofState][]string{
		ledger.ProofWanted: {}, ledger.ProofPending: {"promise"}, ledger.ProofAttested: {"promise", "attest"},
		ledger.ProofConfirmed: {"promise", "attest", "confirm"}, ledger.ProofFinal: {"promise", "lead", "final"},
	}
	allowed := map[string]map[ledger.ProofState]ledger.ProofState{
		"promise": {ledger.ProofWanted: ledger.ProofPending},
		"asked":   {ledger.ProofPending: ledger.ProofPending},
		"attest":  {ledger.ProofPending: ledger.ProofAttested},
		"lead":    {ledger.ProofPending: ledger.ProofConfirmed},
		"confirm": {ledger.ProofAttested: ledger.ProofConfirmed},
		"final":   {ledger.ProofConfirmed: ledger.ProofFinal},
		"back":    {ledger.ProofAttested: ledger.ProofPending, ledger.ProofConfirmed: ledger.ProofPending, ledger.ProofFinal: ledger.ProofPending},
	}
	size := uint64(0)
	for state, way := range ways {
		for name, to := range allowed {
			size++
			id := ledger.ProofID{Size: size, Calendar: calendarA}
			if err := s.WantProofs(t.Context(), 1, proofPayload(size), []string{calendarA}, testTime); err != nil {
				t.Fatal(err)
			}
			for _, step := range way {
				if err := s.moves(t, 1, id)[step](); err != nil {
					t.Fatalf("%s on the way to %s: %v", step, state, err)
				}
			}
			before := s.only(t)
			if err := s.moves(t, 2, id)[name](); !errors.Is(err, calpe.ErrLostLeadership) {
				t.Errorf("%s of a former leader: %v", name, err)
			}
			err := s.moves(t, 1, id)[name]()
			after := s.only(t)
			if want, ok := to[state]; !ok {
				if diff := cmp.Diff(before, after); diff != "" || !errors.Is(err, ledger.ErrConflict) {
					t.Errorf("%s of a proof that is %s: %v, and it is changed:\n%s", name, state, err, diff)
				}
			} else if err != nil || after.State != want {
				t.Errorf("%s of a proof that is %s: %v, it is %s, want %s", name, state, err, after.State, want)
			}
		}
	}
}

// only is the one proof of the newest size.
func (s *Proofs) only(t *testing.T) ledger.Proof {
	t.Helper()
	list, err := s.NewestProofs(t.Context())
	if err != nil || len(list) != 1 {
		t.Fatalf("newest proofs: %v, %v", list, err)
	}
	return list[0]
}

// TestProofLife: what is stored is read again, and what receipts, states and the
// summary take follows from it.
func TestProofLife(t *testing.T) {
	t.Parallel()
	db, _ := openProofs(t)
	s, ctx := db.Proofs(), t.Context()
	at := func(minutes int) time.Time { return testTime.Add(time.Duration(minutes) * time.Minute) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	if list, err := s.NewestProofs(ctx); err != nil || len(list) != 0 {
		t.Fatalf("proofs of an empty table: %v, %v", list, err)
	}
	if sum, err := s.ProofSummary(ctx); err != nil || sum != (ledger.ProofSummary{}) {
		t.Fatalf("summary of an empty table: %+v, %v", sum, err)
	}
	both := []string{calendarA, calendarB}
	must(s.WantProofs(ctx, 1, proofPayload(5), both, at(0)))
	for _, size := range []uint64{4, 5} {
		if err := s.WantProofs(ctx, 1, proofPayload(size), both, at(1)); !errors.Is(err, ledger.ErrConflict) {
			t.Errorf("size %d is wanted behind 5: %v", size, err)
		}
	}
	if err := s.WantProofs(ctx, 1, calpe.Payload{Size: 5, Root: calpe.Hash{6}}, []string{"https://c.example"}, at(1)); !errors.Is(err, ledger.ErrConflict) {
		t.Errorf("size 5 is wanted with another root: %v", err)
	}
	a5, b5 := ledger.ProofID{Size: 5, Calendar: calendarA}, ledger.ProofID{Size: 5, Calendar: calendarB}
	must(s.StorePromise(ctx, 1, a5, []byte("promise"), at(2)))
	must(s.StorePromise(ctx, 1, b5, []byte("other"), at(3)))
	must(s.WantProofs(ctx, 1, proofPayload(8), both, at(60)))
	want := ledger.ProofSummary{Promised: 5, PromisedAt: at(3), Pending: 2, Unpromised: at(60), Waiting: at(2)}
	checkSummary(t, s, want)

	open := func(now time.Time) (ids []ledger.ProofID) {
		list, err := s.OpenProofs(ctx, now, 10*time.Minute, 10)
		must(err)
		for _, p := range list {
			ids = append(ids, p.ID())
		}
		return ids
	}
	if got := open(at(2)); !slices.Equal(got, []ledger.ProofID{a5}) {
		t.Errorf("to be asked at once: %v", got)
	}
	must(s.MarkAsked(ctx, 1, a5, at(2)))
	if got := open(at(11)); !slices.Equal(got, []ledger.ProofID{b5}) {
		t.Errorf("to be asked after 9 minutes: %v", got)
	}
	must(s.MarkAsked(ctx, 1, a5, at(2+800))) // from now on each 100 minutes
	if got := open(at(2 + 899)); slices.Contains(got, a5) {
		t.Errorf("to be asked after 99 minutes: %v", got)
	}
	if got := open(at(2 + 900)); !slices.Equal(got, []ledger.ProofID{b5, a5}) {
		t.Errorf("to be asked after 100 minutes: %v", got)
	}

	must(s.StoreWay(ctx, 1, a5, uncheckedWay, at(1000)))
	checkTimestamp(t, s, 4, calpe.Timestamp{Payload: proofPayload(5), Calendar: calendarA, Operations: uncheckedWay.Operations, Height: 7})
	checkMarks(t, s, calpe.Watermarks{Broadcast: 5})
	must(s.StoreWay(ctx, 1, b5, checkedWay, at(1001)))
	led := calpe.Timestamp{Payload: proofPayload(5), Calendar: calendarB, Operations: checkedWay.Operations, Height: 9, Block: checkedWay.Block, Header: checkedWay.Header}
	checkTimestamp(t, s, 0, led)
	checkMarks(t, s, calpe.Watermarks{Broadcast: 5, Confirmed: 5})
	must(s.MakeProofFinal(ctx, 1, b5))
	led.Final = true
	checkTimestamp(t, s, 4, led)
	checkMarks(t, s, calpe.Watermarks{Broadcast: 5, Confirmed: 5, Final: 5})
	checkSummary(t, s, ledger.ProofSummary{Promised: 5, PromisedAt: at(3), Led: 5, LedAt: at(1001), Unpromised: at(60)})
	if got, err := s.TimestampOfSize(ctx, 5); err != nil || !cmp.Equal(got, led) {
		t.Errorf("TimestampOfSize = %+v, %v", got, err)
	}
	for _, err := range []error{second(s.TimestampFor(ctx, 5)), second(s.TimestampFor(ctx, calpe.MaxLogSize)), second(s.TimestampOfSize(ctx, 8))} {
		if !errors.Is(err, calpe.ErrNotFound) {
			t.Errorf("what isn't there: %v", err)
		}
	}
	for above, want := range map[uint32][]ledger.ProofID{8: {a5, b5}, 9: {a5}} {
		list, err := s.LedProofs(ctx, above, 10)
		must(err)
		var got []ledger.ProofID
		for _, p := range list {
			got = append(got, p.ID())
		}
		if !slices.Equal(got, want) {
			t.Errorf("led above %d: %v, want %v", above, got, want)
		}
	}
	must(s.TakeProofBack(ctx, 1, b5))
	checkMarks(t, s, calpe.Watermarks{Broadcast: 5})
	if got := open(at(1002)); !slices.Equal(got, []ledger.ProofID{b5}) {
		t.Errorf("taken back, it is to be asked at once: %v", got)
	}
}

func second[T any](_ T, err error) error { return err }

func checkSummary(t *testing.T, s *Proofs, want ledger.ProofSummary) {
	t.Helper()
	got, err := s.ProofSummary(t.Context())
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("summary: %v (-want +got):\n%s", err, diff)
	}
}

func checkTimestamp(t *testing.T, s *Proofs, index uint64, want calpe.Timestamp) {
	t.Helper()
	got, err := s.TimestampFor(t.Context(), index)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("timestamp of entry %d: %v (-want +got):\n%s", index, err, diff)
	}
}

func checkMarks(t *testing.T, s *Proofs, want calpe.Watermarks) {
	t.Helper()
	var got calpe.Watermarks
	if err := s.Watermarks(t.Context(), &got); err != nil || got != want {
		t.Errorf("watermarks %+v, %v, want %+v", got, err, want)
	}
	higher := calpe.Watermarks{Broadcast: 9, Confirmed: 9, Final: 9}
	got = higher
	if err := s.Watermarks(t.Context(), &got); err != nil || got != higher {
		t.Errorf("higher watermarks became %+v, %v", got, err)
	}
}

// TestOpenProofsOfEachCalendar: a calendar that has kept none of many promises
// leaves room in the list for the others.
func TestOpenProofsOfEachCalendar(t *testing.T) {
	t.Parallel()
	db, _ := openProofs(t)
	s := db.Proofs()
	for size := uint64(1); size <= 5; size++ {
		for calendar, first := range map[string]uint64{calendarA: 1, calendarB: 5} { // B's is the newest
			if size < first {
				continue
			}
			at := testTime.Add(time.Duration(size) * time.Hour)
			if err := errors.Join(s.WantProofs(t.Context(), 1, proofPayload(size), []string{calendar}, at),
				s.StorePromise(t.Context(), 1, ledger.ProofID{Size: size, Calendar: calendar}, []byte("promise"), at)); err != nil {
				t.Fatal(err)
			}
		}
	}
	list, err := s.OpenProofs(t.Context(), testTime.Add(24*time.Hour), time.Minute, 2)
	if err != nil {
		t.Fatal(err)
	}
	var got []ledger.ProofID
	for _, p := range list {
		got = append(got, p.ID())
	}
	if want := []ledger.ProofID{{Size: 1, Calendar: calendarA}, {Size: 2, Calendar: calendarA}, {Size: 5, Calendar: calendarB}}; !slices.Equal(got, want) {
		t.Errorf("to be asked: %v, want %v", got, want)
	}
}

// TestProofSchema: what the code never does, the schema refuses too.
func TestProofSchema(t *testing.T) {
	t.Parallel()
	db, url := openProofs(t)
	s := db.Proofs()
	if err := s.WantProofs(t.Context(), 1, proofPayload(5), []string{calendarA}, testTime); err != nil {
		t.Fatal(err)
	}
	for sql, constraint := range map[string]string{
		`UPDATE proof SET state = 'pending'`:                                    "proof_promise_before_pending",
		`UPDATE proof SET promise = 'x'`:                                        "proof_promise_before_pending",
		`UPDATE proof SET operations = 'x'`:                                     "proof_way_to_a_block",
		`UPDATE proof SET header = decode(repeat('00', 80), 'hex')`:             "proof_checked_has_header",
		`UPDATE proof SET state = 'mined', promise = 'x', submitted_at = now()`: "proof_state_check",
		`UPDATE proof SET calendar = ''`:                                        "proof_calendar_check",
		`INSERT INTO proof SELECT * FROM proof`:                                 "proof_pkey",
		`UPDATE proof SET operations = decode(repeat('00', 10001), 'hex')`:      "proof_operations_check",
	} {
		var refused *pgconn.PgError
		_, err := db.pool.Exec(t.Context(), sql)
		if !errors.As(err, &refused) || refused.ConstraintName != constraint {
			t.Errorf("%s: %v, want %s", sql, err, constraint)
		}
	}
	if _, err := db.pool.Exec(t.Context(), `DELETE FROM proof`); err == nil {
		t.Error("a proof can be deleted")
	}
	if err := s.StorePromise(t.Context(), 1, ledger.ProofID{Size: 5, Calendar: calendarA}, bytes.Repeat([]byte{1}, 10), testTime); err != nil {
		t.Fatal(err)
	}
	if err := migrations.DownTo(t.Context(), url, 4, nil); err == nil {
		t.Error("the way down drops promises")
	}
}
