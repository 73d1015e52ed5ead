package receipt

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/merkle"
)

// TestIssueRefuses: evidence that doesn't hold never becomes a receipt.
func TestIssueRefuses(t *testing.T) {
	w := newWorld(t, testOrigin)
	other := newWorld(t, "log.altea.example")
	tests := []struct {
		name  string
		index int
		edit  func(e *Evidence)
		want  string
	}{
		{"salt", entryPlain, func(e *Evidence) { e.Salt[0] ^= 1 }, "not-in-tree"},
		{"digest", entryPlain, func(e *Evidence) { e.Digest[0] ^= 1 }, "not-in-tree"},
		{"index", entryPlain, func(e *Evidence) { e.Index++ }, "not-in-tree"},
		{"path", entryPlain, func(e *Evidence) { e.Path = e.Path[1:] }, "not-in-tree"},
		{"checkpoint of another size", entryPlain, func(e *Evidence) { e.Checkpoint = w.checkpointNote(8) }, "not-in-tree"},
		{"checkpoint of another deployment", entryPlain, func(e *Evidence) { e.Checkpoint = other.checkpointNote(anchoredSize) }, "not-in-tree"},
		{"checkpoint that isn't one", entryPlain, func(e *Evidence) { e.Checkpoint = e.Checkpoint[:10] }, "malformed"},
		{"empty checkpoint", entryPlain, func(e *Evidence) { e.Checkpoint = []byte{} }, "malformed"},
		{"checkpoint by a stranger", entryPlain, func(e *Evidence) {
			e.Checkpoint = []byte(changeSignature(string(e.Checkpoint)))
		}, "checkpoint-signature"},
		{"identity", entryPlain, func(e *Evidence) { e.Identity = other.id }, "checkpoint-signature"},
		{"no identity", entryPlain, func(e *Evidence) { e.Identity = Identity{} }, "log identity"},
		{"nothing but the entry", entryPlain, func(e *Evidence) { e.Checkpoint, e.Path, e.Anchor = nil, nil, nil }, "malformed"},
		{"anchor without checkpoint", entryReceived, func(e *Evidence) { e.Anchor = &w.anchor }, "malformed"},
		{"anchor of another checkpoint", entryLate, func(e *Evidence) { e.Anchor = &w.anchor }, "other-payload"},
		{"anchor of another deployment", entryPlain, func(e *Evidence) { e.Anchor = &other.anchor }, "other-payload"},
		{"anchor's txid", entryPlain, anchorEdit(func(a *calpe.Anchor) { a.TxID[0] ^= 1 }), "not that of its id"},
		{"anchor's block", entryPlain, anchorEdit(func(a *calpe.Anchor) { a.Block[0] ^= 1 }), "not that of its id"},
		{"anchor's header", entryPlain, anchorEdit(func(a *calpe.Anchor) {
			a.Header[40] ^= 1
			a.Block = doubleHash(a.Header[:])
		}), "transaction-not-in-block"},
		{"anchor's branch", entryPlain, anchorEdit(func(a *calpe.Anchor) { a.Branch = a.Branch[1:] }), "malformed"},
		{"anchor's coinbase", entryPlain, anchorEdit(func(a *calpe.Anchor) { a.Coinbase = w.blockTxs[1] }), "no-coinbase"},
		{"acknowledgement", entryReceived, func(e *Evidence) {
			e.Acknowledgement = []byte(changeSignature(string(e.Acknowledgement)))
		}, "acknowledgement-signature"},
		{"acknowledgement's path", entryReceived, func(e *Evidence) { e.AcknowledgementPath = nil }, "not-acknowledged"},
		{"certification of another document", entryPlain, func(e *Evidence) { e.Certification = w.evidence(entryDocument).Certification }, "certifies-other-document"},
		{"certification's salt", entryDocument, func(e *Evidence) { e.Certification.Salt[0] ^= 1 }, "certification-not-in-tree"},
		{"agency's path", entryDocument, func(e *Evidence) { e.Certification.AgencyPath = nil }, "agency-not-in-tree"},
		{"certification for the agency", entryDocument, func(e *Evidence) { e.Certification.Agency = e.Certification.Statement }, "malformed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := w.evidence(tt.index)
			tt.edit(&e)
			r, err := Issue(e)
			if !errors.Is(err, ErrEvidence) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want ErrEvidence with %q", err, tt.want)
			}
			if d := cmp.Diff(Receipt{}, r); d != "" {
				t.Errorf("a receipt was given out:\n%s", d)
			}
			if err != nil && (strings.Contains(err.Error(), e.Digest.String()) || strings.Contains(err.Error(), e.Salt.String())) {
				t.Errorf("the error shows digest or salt: %v", err)
			}
		})
	}
}

// anchorEdit changes a copy of the anchor.
func anchorEdit(edit func(*calpe.Anchor)) func(*Evidence) {
	return func(e *Evidence) {
		a := *e.Anchor
		a.Branch = slices.Clone(a.Branch)
		edit(&a)
		e.Anchor = &a
	}
}

func TestIssueRoundTrip(t *testing.T) {
	w := newWorld(t, testOrigin)
	for _, index := range []int{entryDocument, entryPlain, entryLate, entryReceived} {
		want := w.issue(index)
		text, err := want.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decode(text)
		if err != nil {
			t.Fatal(err)
		}
		again, err := got.Encode()
		if err != nil || string(again) != string(text) {
			t.Errorf("entry %d: encoded again it is %s, %v", index, again, err)
		}
		if unchecked(t, want) != string(text) {
			t.Error("Encode writes other bytes than JSON")
		}
	}
}

// TestIssueKeepsNothing: the receipt is the caller's own.
func TestIssueKeepsNothing(t *testing.T) {
	w := newWorld(t, testOrigin)
	e := w.evidence(entryDocument)
	r, err := Issue(e)
	if err != nil {
		t.Fatal(err)
	}
	before := unchecked(t, r)
	e.Anchor.Tx[0] ^= 1
	e.Anchor.Header[0] ^= 1
	e.Anchor.Branch[0][0] ^= 1
	e.Anchor.Coinbase[0] ^= 1
	e.Path[0][0] ^= 1
	e.Checkpoint[0] ^= 1
	e.Certification.Path[0][0] ^= 1
	if unchecked(t, r) != before {
		t.Error("the receipt changed with the evidence")
	}
}

// TestIssuePrefersTheCheckpoint: an acknowledgement that has been kept is left out.
func TestIssuePrefersTheCheckpoint(t *testing.T) {
	w := newWorld(t, testOrigin)
	e := w.evidence(entryPlain)
	e.Acknowledgement, e.AcknowledgementPath = w.acknowledgementNote(), []calpe.Hash{{1}}
	r, err := Issue(e)
	if err != nil || r.Acknowledgement != nil {
		t.Errorf("acknowledgement %v, %v", r.Acknowledgement, err)
	}
}

// TestIssueFirstEntry: the log of one entry has the empty path.
func TestIssueFirstEntry(t *testing.T) {
	w := newWorld(t, testOrigin)
	w.leaves = w.leaves[entryPlain : entryPlain+1]
	// Such a log doesn't exist (entry 0 is the identity), so its entry isn't at index 0.
	e := Evidence{Identity: w.id, Digest: w.digests[entryPlain], Salt: w.salts[entryPlain], Checkpoint: w.checkpointNote(1)}
	if _, err := Issue(e); !errors.Is(err, ErrEvidence) {
		t.Fatalf("the entry of another index: %v", err)
	}
	b := calpe.Entry{Commitment: calpe.Commit(e.Digest, e.Salt)}.Bytes()
	w.leaves = []calpe.Hash{merkle.LeafHash(b[:])}
	e.Checkpoint = w.checkpointNote(1)
	r, err := Issue(e)
	if err != nil {
		t.Fatal(err)
	}
	text, err := r.Encode()
	if err != nil || !strings.Contains(string(text), `"path": ""`) {
		t.Errorf("%s, %v", text, err)
	}
}

func TestEncodeRefuses(t *testing.T) {
	w := newWorld(t, testOrigin)
	r := w.issue(entryPlain)
	r.Anchor.Position = 0
	if text, err := r.Encode(); err == nil {
		t.Errorf("encoded a receipt that can't be read:\n%s", text)
	}
	r = w.issue(entryDocument)
	r.Certification.Statement = w.issue(entryDocument).Certification.Agency.Statement
	if text, err := r.Encode(); err == nil {
		t.Errorf("encoded a receipt that can't be read:\n%s", text)
	}
	r.Certification = &Certification{}
	if text, err := r.Encode(); err == nil {
		t.Errorf("encoded a receipt without statements:\n%s", text)
	}
}
