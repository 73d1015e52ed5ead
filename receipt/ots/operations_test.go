package ots

import (
	"bytes"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt"
)

// TestWays: a fork has a way for each block, with the operations of just that one.
func TestWays(t *testing.T) {
	t.Parallel()
	message := bytes.Repeat([]byte{7}, 32)
	line := func(a Attestation, ops ...Op) Timestamp {
		stamp, err := NewTimestamp(message, ops, a)
		if err != nil {
			t.Fatal(err)
		}
		return stamp
	}
	pending, err := PendingAt(calendar)
	if err != nil {
		t.Fatal(err)
	}
	left, right, hash := Op{Append, "left"}, Op{Prepend, "right"}, Op{Tag: SHA256}
	stamp := line(BitcoinBlock(5), left, hash)
	for _, next := range []Timestamp{line(BitcoinBlock(4), left, hash, hash), line(BitcoinBlock(1), right), line(pending, right, left)} {
		if stamp, err = stamp.Merge(next); err != nil {
			t.Fatal(err)
		}
	}
	type way struct {
		Ops    []Op
		Height uint64
	}
	var got []way
	for ops, height := range stamp.Ways() {
		got = append(got, way{ops, height})
	}
	want := []way{{[]Op{left, hash}, 5}, {[]Op{left, hash, hash}, 4}, {[]Op{right}, 1}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ways (-want +got):\n%s", diff)
	}
	for ops := range stamp.Ways() {
		if !slices.Equal(ops, want[0].Ops) {
			t.Errorf("the first way is %v", ops)
		}
		break
	}
	for range (Timestamp{}).Ways() {
		t.Error("an empty timestamp has a way")
	}
}

// TestCompleteBy: the way of an entry through another calendar is the end of the
// way of its receipt, and can be put behind what our calendar promised.
func TestCompleteBy(t *testing.T) {
	t.Parallel()
	r := vector(t, "timestamped")
	_, c, err := receipt.ReadCheckpoint([]byte(r.Checkpoint))
	if err != nil {
		t.Fatal(err)
	}
	by := calpe.Timestamp{Payload: calpe.Payload{Size: c.Size, Root: c.Root}, Operations: r.Timestamp.Operations, Height: r.Timestamp.Height}
	entry := calpe.Entry{Index: r.Index, Commitment: calpe.Commit(r.Digest, r.Salt)}
	rest, err := CompleteBy(entry, r.Path, by)
	if err != nil {
		t.Fatal(err)
	}
	upgraded, err := stampOf(t, r, calendar).Upgrade(rest)
	if err != nil {
		t.Fatal(err)
	}
	report := Verify(Input{File: upgraded, Digest: r.Digest[:], Headers: chainOf(t, "headers-calendar", true)})
	if report.Existed.Status != receipt.Holds {
		t.Errorf("the upgraded file: %+v", report.Existed)
	}
	for ops := range rest.Ways() {
		if whole, err := Operations(ops); err == nil && !bytes.HasSuffix(whole, by.Operations) {
			t.Errorf("the way %x doesn't end with the calendar's", whole)
		}
	}
	_, err = CompleteBy(entry, r.Path[1:], by)
	wantError(t, err, "complete entry")
	by.Operations = []byte{0x02}
	_, err = CompleteBy(entry, r.Path, by)
	wantError(t, err, "0x02")
	_, err = Operations([]Op{{Tag: SHA1}, {Tag: SHA256}})
	wantError(t, err, "0x02")
}
