package api_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/api"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/ots"
)

// stamps are what calendars have proved of a world.
type stamps struct {
	best  *calpe.Timestamp
	state api.StampingState
	err   error
}

func (s *stamps) TimestampFor(_ context.Context, index uint64) (calpe.Timestamp, error) {
	if s.err != nil {
		return calpe.Timestamp{}, s.err
	}
	if s.best == nil || index >= s.best.Size {
		return calpe.Timestamp{}, calpe.ErrNotFound
	}
	return *s.best, nil
}

func (s *stamps) TimestampOfSize(_ context.Context, size uint64) (calpe.Timestamp, error) {
	if s.err != nil {
		return calpe.Timestamp{}, s.err
	}
	if s.best == nil || size != s.best.Size {
		return calpe.Timestamp{}, calpe.ErrNotFound
	}
	return *s.best, nil
}

func (s *stamps) Stamping(context.Context) (api.StampingState, error) { return s.state, s.err }

// stamp has a calendar lead the newest checkpoint to block 7.
func (w *world) stamp(final bool) *calpe.Timestamp {
	payload := calpe.Payload{Size: w.head.Size, Root: w.head.Root}
	b := payload.Bytes()
	digest := sha256.Sum256(b[:])
	t := &calpe.Timestamp{Payload: payload, Operations: []byte{receipt.OpSHA256}, Height: 7, Block: calpe.BlockHash{7}, Final: final}
	root := sha256.Sum256(digest[:])
	copy(t.Header[36:], root[:])
	binary.LittleEndian.PutUint32(t.Header[68:], uint32(w.now.Unix()+600))
	return t
}

// TestTimestampedReceipt: receipts and entries show what a calendar proved, until
// an anchor is as good.
func TestTimestampedReceipt(t *testing.T) {
	w := newWorld(t)
	s := &stamps{}
	w.config.Timestamps = s
	w.serve()
	at := w.upload("deed", "deed.pdf") + "/receipt"
	w.seal()
	evidence := func() (anchor, timestamp bool) {
		t.Helper()
		a := w.as("calpe_alice", "GET", at, nil)
		r, err := receipt.Decode(a.body)
		if err != nil {
			t.Fatalf("%d %s: %v", a.status, a.body, err)
		}
		return r.Anchor != nil, r.Timestamp != nil
	}
	for _, step := range []struct {
		what              string
		do                func()
		anchor, timestamp bool
	}{
		{"checkpointed", func() {}, false, false},
		{"led to a block", func() { s.best = w.stamp(false) }, false, true},
		{"mined as well", func() { w.mine(100, false) }, true, false},
		{"final by a calendar", func() { s.best.Final = true }, false, true},
		{"final by an anchor", func() { w.anchor.Final = true }, true, false},
	} {
		step.do()
		if anchor, timestamp := evidence(); anchor != step.anchor || timestamp != step.timestamp {
			t.Errorf("%s: the receipt has an anchor: %v, a timestamp: %v", step.what, anchor, timestamp)
		}
	}
	w.anchor = nil
	a := w.as("calpe_alice", "GET", at, nil, "Accept", typeOTS)
	wantAttestations(t, a.body, "deed", ots.BitcoinBlock(7))
	for _, path := range []string{"/v1/entries/1", fmt.Sprintf("/v1/entries/1?size=%d", w.head.Size)} {
		var entry struct{ Timestamp *receipt.Timestamp }
		a := w.do("GET", path, nil)
		if err := json.Unmarshal(a.body, &entry); err != nil || entry.Timestamp == nil || entry.Timestamp.Height != 7 {
			t.Errorf("%s: %d %s, %v", path, a.status, a.body, err)
		}
		w.fitsTheDescription("Entry", a.body)
	}
	s.err = errors.New("the database is down")
	if a := w.as("calpe_alice", "GET", at, nil); a.status != 503 {
		t.Errorf("while timestamps can't be read: %d %s", a.status, a.body)
	}
}

// fitsTheDescription checks a body against a schema of openapi.json.
func (w *world) fitsTheDescription(schema string, body []byte) {
	w.t.Helper()
	d := readOpenAPI(w.t, w)
	var value any
	if err := json.Unmarshal(body, &value); err != nil {
		w.t.Fatal(err)
	}
	if err := d.check(d.Components.Schemas[schema], value); err != nil {
		w.t.Errorf("%s: %v\n%s", schema, err, body)
	}
}

// TestStatusOfCalendars: a log without coins says nothing of funds, and how its
// calendars stand.
func TestStatusOfCalendars(t *testing.T) {
	w := newWorld(t)
	s := &stamps{state: api.StampingState{State: "stalled", ComparedWith: "file", Promised: 9, PromisedAt: w.now.Add(-time.Hour), Pending: 4}}
	w.config.Treasury, w.config.Stamping, w.config.Timestamps = nil, s, s
	w.serve()
	a := w.do("GET", "/v1/status", nil)
	const want = `"calendars":{"state":"stalled","compared_with":"file","promised":9,"promised_at":"2026-11-21T08:30:00Z","led":0,"pending":4}`
	if text := string(a.body); a.status != 200 || !strings.Contains(text, want) || strings.Contains(text, "funds") || strings.Contains(text, "anchors_left") {
		t.Errorf("%d %s, want %s and nothing of funds", a.status, a.body, want)
	}
	w.fitsTheDescription("Status", a.body)
	s.err = errors.New("the database is down")
	if a := w.do("GET", "/v1/status", nil); a.status != 503 {
		t.Errorf("while it can't be read: %d %s", a.status, a.body)
	}
}

// TestFoundByTimestamp: what is found has the block of its timestamp, if that was
// compared, and no transaction.
func TestFoundByTimestamp(t *testing.T) {
	s := &stamps{}
	w := newFindWorld(t, func(c *api.Config) { c.Timestamps = s })
	w.keep("deed", testCode, "")
	w.seal()
	s.best = w.stamp(true)
	const want = `"anchor":{"height":7,"block":"%s","time":"2026-11-21T09:40:00Z"}`
	if a := w.look("code=" + testCode.String()); !strings.Contains(string(a.body), fmt.Sprintf(want, calpe.BlockHash{7})) {
		t.Errorf("%s", a.body)
	}
	s.best.Block = calpe.BlockHash{}
	if a := w.look("code=" + testCode.String()); strings.Contains(string(a.body), "anchor") {
		t.Errorf("what nothing was compared with: %s", a.body)
	}
}

// TestCalendarBehindACalendar: our calendar completes what another one has led to
// a block, once that is final.
func TestCalendarBehindACalendar(t *testing.T) {
	s := &stamps{}
	w := newCalendarWorld(t, func(c *api.CalendarConfig) { c.Timestamps = s })
	w.add(calpe.Commitment{1})
	w.add(calpe.Commitment{2})
	w.seal()
	s.best = w.stamp(false)
	mine := w.entries[1]
	if got := w.ask("GET", timestampPath(mine), ""); got.status != 404 || string(got.body) != "Pending confirmation in Bitcoin blockchain" {
		t.Errorf("not final: %d %s", got.status, got.body)
	}
	s.best.Final = true
	got := w.ask("GET", timestampPath(mine), "")
	message := mine.Bytes()
	rest, err := ots.ParseTimestamp(message[:], got.body)
	if err != nil || got.status != 200 {
		t.Fatalf("%d %q, %v", got.status, got.body, err)
	}
	for message, a := range rest.All() {
		if height, _ := a.Block(); height != 7 || string(message) != string(s.best.Header[36:68]) {
			t.Errorf("it leads to %x in %v", message, a)
		}
	}
}
