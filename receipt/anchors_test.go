package receipt

import (
	"bytes"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/calpe/calpe"
	"github.com/google/go-cmp/cmp"
)

func TestAnchorsPath(t *testing.T) {
	for page, path := range map[uint64]string{0: "anchors/x000/000", 1: "anchors/x000/001", 999: "anchors/x000/999", 1000: "anchors/x001/000", 999_999: "anchors/x999/999"} {
		if got := AnchorsPath(page); got != path {
			t.Errorf("page %d is %s, want %s", page, got, path)
		}
		if got, err := ParseAnchorsPath(path); err != nil || got != page {
			t.Errorf("%s is page %d, %v", path, got, err)
		}
	}
	for _, path := range []string{"", "anchors/000", "anchors/x000/000/", "anchors/x0/0", "anchors/x000/0000", "anchors/x-01/000", "anchors/x000/ 00", "anchors/x000/+00", "tile/x000/000"} {
		if page, err := ParseAnchorsPath(path); err == nil {
			t.Errorf("%q is page %d", path, page)
		}
	}
}

// testAnchor is the anchor of a receipt of the test world.
func testAnchor(t *testing.T) Anchor {
	t.Helper()
	for _, v := range newWorld(t, testOrigin).verifications() {
		if r, err := Decode([]byte(v.Receipt)); err == nil && r.Anchor != nil && Verify(Input{Digest: r.Digest, Receipt: r}).Existed.Status != Refuted {
			return *r.Anchor
		}
	}
	t.Fatal("no receipt has an anchor")
	return Anchor{}
}

func TestAnchorPages(t *testing.T) {
	a := testAnchor(t)
	for _, n := range []int{0, 1, 5, AnchorsPerPage} {
		page := slices.Repeat([]Anchor{a}, n)
		data, err := EncodeAnchors(page)
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeAnchors(data)
		if err != nil || len(got) != n || n > 0 && !cmp.Equal(page, got) {
			t.Errorf("%d anchors are %d, %v", n, len(got), err)
		}
		if bytes.Count(data, []byte("\n")) != n {
			t.Errorf("%d anchors are %d lines", n, bytes.Count(data, []byte("\n")))
		}
	}
	one, err := EncodeAnchors([]Anchor{a})
	if err != nil {
		t.Fatal(err)
	}
	line := string(one)
	for name, data := range map[string]string{
		"too many":      strings.Repeat(line, AnchorsPerPage+1),
		"cut":           line[:len(line)-1],
		"empty line":    line + "\n",
		"not JSON":      "x\n",
		"nothing in it": "{}\n",
		"unknown":       strings.Replace(line, `{"network"`, `{"x":1,"network"`, 1),
		"twice":         strings.Replace(line, `{"network"`, `{"network":"regtest","network"`, 1),
		"two a line":    line[:len(line)-1] + line,
		"no header":     strings.Replace(line, fmt.Sprintf("%x", []byte(a.Header)), "00", 1),
		"no transaction": strings.Replace(line, fmt.Sprintf("%x", []byte(a.Transaction)),
			"00", 1),
	} {
		if page, err := DecodeAnchors([]byte(data)); err == nil {
			t.Errorf("%s: %d anchors", name, len(page))
		}
	}
	if _, err := EncodeAnchors([]Anchor{{}}); err == nil {
		t.Error("an empty anchor was written")
	}
	if _, err := DecodeAnchors(make([]byte, MaxAnchorsPage+1)); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("too large: %v", err)
	}
	runtime.GC() // other tests measure the heap
}

func TestLink(t *testing.T) {
	a := testAnchor(t)
	link, err := a.Link()
	if err != nil {
		t.Fatal(err)
	}
	tx, err := parseTransaction(a.Transaction)
	if err != nil || link.TxID != tx.id || !slices.Equal(link.Inputs, tx.inputs) || link.Payload == nil || len(link.Outputs) != len(tx.scripts) {
		t.Fatalf("%+v, %v", link, err)
	}
	if want := (calpe.Outpoint{TxID: tx.id, Vout: 1}); link.Next() != want || !bytes.Equal(link.Payload.Script(), tx.scripts[0]) {
		t.Errorf("%+v", link)
	}
	for name, spoil := range map[string]func(a *Anchor){
		"header":      func(a *Anchor) { a.Header[40] ^= 1 },
		"transaction": func(a *Anchor) { a.Transaction[len(a.Transaction)-1] ^= 1 },
		"position":    func(a *Anchor) { a.Position ^= 1 << 9 },
		"coinbase":    func(a *Anchor) { a.Coinbase[len(a.Coinbase)-1] ^= 1 },
		"not the first transaction": func(a *Anchor) {
			a.Coinbase, a.CoinbaseBranch = a.Transaction, a.Branch
		},
	} {
		b := a
		b.Header, b.Transaction, b.Coinbase = bytes.Clone(a.Header), bytes.Clone(a.Transaction), bytes.Clone(a.Coinbase)
		spoil(&b)
		if _, err := b.Link(); err == nil {
			t.Errorf("a spoilt %s is a link", name)
		}
	}
}
