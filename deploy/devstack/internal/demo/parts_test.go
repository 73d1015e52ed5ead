package demo

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestCertificate checks what a PDF reader relies on: where objects and the
// table of objects stand, and how long the page is.
func TestCertificate(t *testing.T) {
	pdf := certificate()
	if !bytes.Equal(pdf, certificate()) {
		t.Error("it isn't the same every time")
	}
	if !bytes.HasPrefix(pdf, []byte("%PDF-1.")) || !bytes.HasSuffix(pdf, []byte("%%EOF\n")) {
		t.Error("it doesn't begin and end as a PDF")
	}
	start := regexp.MustCompile(`startxref\n(\d+)\n`).FindSubmatch(pdf)
	at, err := strconv.Atoi(string(start[1]))
	if err != nil || !bytes.HasPrefix(pdf[at:], []byte("xref\n0 9\n")) {
		t.Fatalf("no table at %d: %v", at, err)
	}
	rows := regexp.MustCompile(`(?m)^(\d{10}) 00000 n $`).FindAllSubmatch(pdf[at:], -1)
	if len(rows) != 8 {
		t.Fatalf("%d objects, want 8", len(rows))
	}
	for i, row := range rows {
		offset, _ := strconv.Atoi(string(row[1]))
		if want := fmt.Sprintf("%d 0 obj\n", i+1); !bytes.HasPrefix(pdf[offset:], []byte(want)) {
			t.Errorf("object %d doesn't stand at %d", i+1, offset)
		}
	}
	length := regexp.MustCompile(`/Length (\d+) >>\nstream\n`).FindSubmatchIndex(pdf)
	n, _ := strconv.Atoi(string(pdf[length[2]:length[3]]))
	if !bytes.HasPrefix(pdf[length[1]+n:], []byte("endstream")) {
		t.Errorf("the page isn't %d bytes long", n)
	}
}

func TestWriteDocuments(t *testing.T) {
	var sums []string
	for range 2 {
		dir := t.TempDir()
		if err := writeDocuments(dir, 100_000); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(dir, surveyScan))
		if err != nil || len(text) != 100_000 {
			t.Fatalf("%d bytes, %v", len(text), err)
		}
		sums = append(sums, fmt.Sprintf("%x", sha256.Sum256(text)))
	}
	if sums[0] != sums[1] {
		t.Error("the big document isn't the same every time")
	}
}

func TestTampering(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	for _, tt := range []struct {
		name, text, want string
		change           func(from, to string) (string, error)
	}{
		{"byte", "abcde", "abbde", flipByte},
		{"salt", `{"digest": "00", "salt": "a1", "salt": "b2"}`, `{"digest": "00", "salt": "01", "salt": "b2"}`, changeSalt},
		{"salt of zero", `{"salt":"01"}`, `{"salt":"11"}`, changeSalt},
	} {
		if err := os.WriteFile(from, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := tt.change(from, to); err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if got, _ := os.ReadFile(to); string(got) != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
	if err := os.WriteFile(from, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := changeSalt(from, to); err == nil {
		t.Error("changed a salt that isn't there")
	}
}

func TestReached(t *testing.T) {
	for _, tt := range []struct {
		state, wanted string
		want          bool
	}{
		{"received", "received", true},
		{"received", "checkpointed", false},
		{"final", "confirmed", true},
		{"confirmed", "final", false},
		{"broadcast", "final", false},
		{"", "received", false},
		{"unheard-of", "received", false},
		{"unheard-of", "final", false},
	} {
		if got := reached(tt.state, tt.wanted); got != tt.want {
			t.Errorf("%q reached %q: %v", tt.state, tt.wanted, got)
		}
	}
}

func TestEvidence(t *testing.T) {
	path := filepath.Join(t.TempDir(), "receipt")
	text := `{"index": 4, "checkpoint": "origin\n7\nAQI=\n\n- sig\n",
		"acknowledgement": {"note": "calpe/acknowledgement/v1\nid\n4\n1\nroot\nT1\nT2\n\n- sig\n"},
		"anchor": {"height": 9, "header": "00", "transaction": "01"}}`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	e, err := readEvidence(path)
	if err != nil {
		t.Fatal(err)
	}
	if size, root, err := e.tree(); size != 7 || root != "0102" || err != nil {
		t.Errorf("tree %d %s %v", size, root, err)
	}
	if made, deadline, ok := e.promise(); made != "T1" || deadline != "T2" || !ok {
		t.Errorf("promise %q %q %v", made, deadline, ok)
	}
	if txid, block, err := e.anchored(); len(txid) != 64 || len(block) != 64 || txid == block || err != nil {
		t.Errorf("anchored %s %s %v", txid, block, err)
	}
	var none evidence
	if _, _, err := none.tree(); err == nil {
		t.Error("a tree without a checkpoint")
	}
	if _, _, ok := none.promise(); ok {
		t.Error("a promise without an acknowledgement")
	}
	if _, _, err := none.anchored(); err == nil {
		t.Error("a block without an anchor")
	}
	for _, checkpoint := range []string{"o\nx\nAQI=\n", "o\n7\n!\n"} {
		if _, _, err := (evidence{Checkpoint: checkpoint}).tree(); err == nil {
			t.Errorf("took the checkpoint %q", checkpoint)
		}
	}
}

func TestReadVerdicts(t *testing.T) {
	got, err := readVerdicts(`{"report": {"existed": {"status": "holds"}, "in_log": {"status": "refuted", "reason": "other-log"}, "certified": {"status": "not-asked", "reason": "no-certification"}}}`)
	if want := (verdicts{"holds", "refuted other-log", "not-asked no-certification"}); err != nil || got != want {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := readVerdicts("calpe: broken"); err == nil {
		t.Error("took what isn't JSON")
	}
}

func TestWrap(t *testing.T) {
	for _, tt := range []struct{ line, want string }{
		{"short", "short"},
		{"exactly 10", "exactly 10"},
		{"more than ten", "more than\n  ten"},
		{"one two three four", "one two\n  three\n  four"},
		{"unbreakableword and more", "unbreakableword and more"},
		{"ab unbreakableword", "ab\n  unbreakableword"},
	} {
		if got := wrap(tt.line, 10, 2); got != tt.want {
			t.Errorf("%q: %q, want %q", tt.line, got, tt.want)
		}
	}
}

func TestPrinter(t *testing.T) {
	now := time.Unix(100, 0)
	var out strings.Builder
	p := &printer{w: &out, start: now, now: func() time.Time { return now.Add(1500 * time.Millisecond) }}
	p.act("Title", "what happens")
	p.step("name", "first\nsecond", 200*time.Millisecond)
	slog.New(handler{p: p}).With("version", "v1").Info("building", "program", "x")
	p.outcome("exit code %d", 1)
	want := `
1. Title
   what happens

       1.5s   +0.2s  name          first
                                   second
                     ...           building, version v1, program x
   as expected: exit code 1

`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
	p.w, p.colour = io.Discard, true
	if got := p.paint(green, "x"); got != "\x1b[32mx\x1b[0m" {
		t.Errorf("%q", got)
	}
}

func TestNames(t *testing.T) {
	if got := builtVersion("/cache/btcd-v0.26.2-be1f639f9fa2/btcd"); got != "v0.26.2" {
		t.Error(got)
	}
	if got := host("postgres://user:secret@127.0.0.1:5/db"); got != "127.0.0.1:5" {
		t.Error(got)
	}
	for n, want := range map[int64]string{50: "50 bytes", 1700: "1.7 KiB", 64 << 20: "64 MiB"} {
		if got := sizeText(n); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
}
