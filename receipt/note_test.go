package receipt

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/note"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/merkle"
)

// noteEdit makes a valid note one that must be refused: old is replaced by new,
// once. If resign, the right key then signs the new text, so that only the text
// is wrong.
type noteEdit struct {
	kind, name, old, new string
	resign               bool
}

func noteEdits() []noteEdit {
	const c, a = "checkpoint", "acknowledgement"
	return []noteEdit{
		{c, "checkpoint-of-another-origin", "log.calpe", "log.calpa", true},
		{c, "checkpoint-origin-upper-case", "log.calpe", "log.Calpe", true},
		{c, "checkpoint-origin-empty", testOrigin + "\n7", "\n7", true},
		{c, "checkpoint-size-leading-zero", "\n7\n", "\n07\n", true},
		{c, "checkpoint-size-plus", "\n7\n", "\n+7\n", true},
		{c, "checkpoint-size-hex", "\n7\n", "\n0x7\n", true},
		{c, "checkpoint-size-negative", "\n7\n", "\n-7\n", true},
		{c, "checkpoint-size-empty", "\n7\n", "\n\n", true},
		{c, "checkpoint-size-too-large", "\n7\n", "\n1099511627776\n", true},
		{c, "checkpoint-size-above-64-bits", "\n7\n", "\n18446744073709551623\n", true},
		{c, "checkpoint-size-space", "\n7\n", "\n7 \n", true},
		{c, "checkpoint-root-stray-bits", "=\n\n", "=\n\n", true},
		{c, "checkpoint-root-unpadded", "=\n\n", "\n\n", true},
		{c, "checkpoint-root-33-bytes", "=\n\n", "A\n\n", true},
		{c, "checkpoint-extension-line", "=\n\n", "=\nextension\n\n", true},
		{c, "checkpoint-changed-size", "\n7\n", "\n8\n", false},
		{c, "checkpoint-no-blank-line", "=\n\n", "=\n", false},
		{c, "checkpoint-carriage-return", "\n7\n", "\n7\r\n", false},
		{c, "checkpoint-no-signature", "— ", "", false},
		{c, "checkpoint-hyphen-for-dash", "— ", "- ", false},
		{c, "checkpoint-signature-name", "— log.calpe", "— log.altea", false},
		{c, "checkpoint-trailing-text", "=\n\n— ", "=\n\ntext\n\n— ", false},
		{a, "acknowledgement-type", "calpe/acknowledgement/v1", "calpe/acknowledgement/v2", true},
		{a, "acknowledgement-of-another-log", "v1\n", "v1\n0", true},
		{a, "acknowledgement-first-leading-zero", "\n11\n", "\n011\n", true},
		{a, "acknowledgement-first-too-large", "\n11\n", "\n1099511627775\n", true},
		{a, "acknowledgement-count-zero", "\n3\n", "\n0\n", true},
		{a, "acknowledgement-count-too-large", "\n3\n", "\n1099511627770\n", true},
		{a, "acknowledgement-root-unpadded", "=\n2026", "\n2026", true},
		{a, "acknowledgement-time-fraction", "09:30:00Z", "09:30:00.5Z", true},
		{a, "acknowledgement-time-offset", "09:30:00Z", "09:30:00+00:00", true},
		{a, "acknowledgement-time-leap", "09:30:00Z", "09:30:60Z", true},
		{a, "acknowledgement-time-lower-case", "09:30:00Z", "09:30:00z", true},
		{a, "acknowledgement-time-year", "2026-11-21T09", "1969-11-21T09", true},
		{a, "acknowledgement-deadline-before-time", "T10:30:00Z", "T09:29:59Z", true},
		{a, "acknowledgement-no-deadline", "2026-11-21T10:30:00Z\n", "", true},
		{a, "acknowledgement-eighth-line", "T10:30:00Z\n", "T10:30:00Z\nmore\n", true},
		{a, "acknowledgement-changed-deadline", "T10:30:00Z", "T11:30:00Z", false},
		{a, "acknowledgement-tab", "\n3\n", "\n3\t\n", false},
	}
}

// edited is the note that the edit makes.
func (w *world) edited(e noteEdit) string {
	w.tb.Helper()
	text, key := string(w.checkpointNote(anchoredSize)), testKey(w.tb, w.id.Origin, "")
	if e.kind == "acknowledgement" {
		text, key = string(w.acknowledgementNote()), testKey(w.tb, AcknowledgementKeyName(w.id.Origin), "")
	}
	if !strings.Contains(text, e.old) {
		w.tb.Fatalf("%s: the note has no %q", e.name, e.old)
	}
	text = strings.Replace(text, e.old, e.new, 1)
	if e.name == "checkpoint-root-stray-bits" {
		i := strings.Index(text, "=\n\n") - 1
		text = text[:i] + string(text[i]+1) + text[i+1:]
	}
	if !e.resign {
		return text
	}
	body := text[:strings.LastIndex(text, "\n\n")+1]
	msg, err := note.Sign(&note.Note{Text: body}, key)
	if err != nil {
		w.tb.Fatal(err)
	}
	return string(msg)
}

// open reads a note of that kind as the log's.
func (w *world) open(kind, text string) (err error) {
	if kind == "acknowledgement" {
		_, err = OpenAcknowledgement([]byte(text), w.id)
		return err
	}
	_, err = OpenCheckpoint([]byte(text), w.id)
	return err
}

func TestNotesRefused(t *testing.T) {
	w := newWorld(t, testOrigin)
	for _, e := range noteEdits() {
		t.Run(e.name, func(t *testing.T) {
			text := w.edited(e)
			err := w.open(e.kind, text)
			if err == nil {
				t.Fatalf("opened:\n%s", text)
			}
			t.Log(err)
		})
	}
}

func TestNotesOfAnotherKey(t *testing.T) {
	w := newWorld(t, testOrigin)
	c, a := w.checkpointNote(anchoredSize), w.acknowledgementNote()
	// A key of one kind must not do for the other, even for its owner.
	swapped := w.id
	swapped.CheckpointKeys, swapped.AcknowledgementKeys = w.id.AcknowledgementKeys, w.id.CheckpointKeys
	other := newIdentity(t, "log.altea.example")
	for _, id := range []Identity{swapped, other} {
		if _, err := OpenCheckpoint(c, id); !errors.Is(err, ErrSignature) {
			t.Errorf("checkpoint: %v, want ErrSignature", err)
		}
		if _, err := OpenAcknowledgement(a, id); !errors.Is(err, ErrSignature) {
			t.Errorf("acknowledgement: %v, want ErrSignature", err)
		}
	}
	broken := w.id
	broken.CheckpointKeys, broken.AcknowledgementKeys = []string{"no key"}, []string{"no key"}
	if _, err := OpenCheckpoint(c, broken); err == nil {
		t.Error("opened a checkpoint with an identity without a key")
	}
	if _, err := OpenAcknowledgement(a, broken); err == nil {
		t.Error("opened an acknowledgement with an identity without a key")
	}
}

// TestNotesCutAnywhere: no beginning of a note is a note.
func TestNotesCutAnywhere(t *testing.T) {
	w := newWorld(t, testOrigin)
	for kind, text := range map[string]string{"checkpoint": string(w.checkpointNote(anchoredSize)), "acknowledgement": string(w.acknowledgementNote())} {
		for n := range len(text) {
			if w.open(kind, text[:n]) == nil {
				t.Errorf("%s cut to %d of %d bytes opened", kind, n, len(text))
			}
		}
	}
}

func TestCheckpointRoundTrip(t *testing.T) {
	w := newWorld(t, testOrigin)
	for _, want := range []calpe.Checkpoint{{Size: 0, Root: merkle.EmptyRoot()}, {Size: 1, Root: calpe.Hash{1}}, {Size: calpe.MaxLogSize, Root: calpe.Hash{0xff}}} {
		msg, err := SignCheckpoint(testKey(t, testOrigin, ""), testOrigin, want.Size, want.Root)
		if err != nil {
			t.Fatal(err)
		}
		want.Note = msg
		got, err := OpenCheckpoint(msg, w.id)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("opened (-want +got):\n%s", d)
		}
		origin, got, err := ReadCheckpoint(msg)
		if err != nil || origin != testOrigin {
			t.Errorf("read origin %q, %v", origin, err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("read (-want +got):\n%s", d)
		}
	}
}

func TestSignCheckpointRefuses(t *testing.T) {
	key := testKey(t, testOrigin, "")
	for name, sign := range map[string]func() ([]byte, error){
		"size":            func() ([]byte, error) { return SignCheckpoint(key, testOrigin, calpe.MaxLogSize+1, calpe.Hash{}) },
		"origin of a key": func() ([]byte, error) { return SignCheckpoint(key, "log.altea.example", 1, calpe.Hash{}) },
		"origin":          func() ([]byte, error) { return SignCheckpoint(key, "log\n1", 1, calpe.Hash{}) },
	} {
		if msg, err := sign(); err == nil {
			t.Errorf("%s: signed\n%s", name, msg)
		}
	}
}

func TestAcknowledgementRoundTrip(t *testing.T) {
	w := newWorld(t, testOrigin)
	key := testKey(t, AcknowledgementKeyName(testOrigin), "")
	at := time.Date(2030, 2, 28, 23, 59, 59, 999, time.FixedZone("", 3600))
	msg, err := SignAcknowledgement(key, Acknowledgement{w.id.Hash(), calpe.MaxLogSize - 5, 5, calpe.Hash{7}, at, at})
	if err != nil {
		t.Fatal(err)
	}
	whole := time.Date(2030, 2, 28, 22, 59, 59, 0, time.UTC)
	want := Acknowledgement{w.id.Hash(), calpe.MaxLogSize - 5, 5, calpe.Hash{7}, whole, whole}
	got, err := OpenAcknowledgement(msg, w.id)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("opened (-want +got):\n%s", d)
	}
}

func TestSignAcknowledgementRefuses(t *testing.T) {
	w := newWorld(t, testOrigin)
	key := testKey(t, AcknowledgementKeyName(testOrigin), "")
	good := Acknowledgement{w.id.Hash(), 3, 5, calpe.Hash{7}, testTime, testTime}
	for name, edit := range map[string]func(*Acknowledgement){
		"no entries":        func(a *Acknowledgement) { a.Count = 0 },
		"above the log":     func(a *Acknowledgement) { a.First = calpe.MaxLogSize },
		"far above the log": func(a *Acknowledgement) { a.First = 1 << 63 },
		"overflow":          func(a *Acknowledgement) { a.Count = 1<<64 - 1 },
		"deadline":          func(a *Acknowledgement) { a.Deadline = testTime.Add(-time.Second) },
		"no time":           func(a *Acknowledgement) { a.Time = time.Time{} },
		"late":              func(a *Acknowledgement) { a.Deadline = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
	} {
		a := good
		edit(&a)
		if msg, err := SignAcknowledgement(key, a); err == nil {
			t.Errorf("%s: signed\n%s", name, msg)
		}
	}
}

func TestVerifyAcknowledged(t *testing.T) {
	w := newWorld(t, testOrigin)
	msg := w.acknowledgementNote()
	for i := groupFirst; i < logSize; i++ {
		entry := calpe.Entry{Index: uint64(i), Commitment: calpe.Commit(w.digests[i], w.salts[i])}
		path := w.path(w.leaves[groupFirst:], i-groupFirst)
		if _, err := VerifyAcknowledged(entry, msg, path, w.id); err != nil {
			t.Error(err)
		}
		entry.Commitment[0] ^= 1
		if _, err := VerifyAcknowledged(entry, msg, path, w.id); !errors.Is(err, merkle.ErrRootMismatch) {
			t.Errorf("another entry: %v", err)
		}
		if _, err := VerifyAcknowledged(entry, msg[1:], path, w.id); err == nil {
			t.Error("another note verified")
		}
	}
	if err := (Acknowledgement{}).Verify(calpe.Entry{}, nil); err == nil {
		t.Error("an acknowledgement of nothing verified an entry")
	}
}
