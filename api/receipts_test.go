package api_test

import (
	"crypto/sha256"
	"slices"
	"strings"
	"testing"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/api"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/ots"
)

const typeOTS = "application/vnd.opentimestamps.v1"

// upload gives the address of a new document.
func (w *world) upload(text, name string) string {
	w.t.Helper()
	a := w.as("calpe_alice", "POST", "/v1/documents", strings.NewReader(text), "Content-Disposition", `attachment; filename="`+name+`"`)
	if a.status != 201 {
		w.t.Fatalf("upload: %d %s", a.status, a.body)
	}
	return a.header.Get("Location")
}

func TestReceiptInBothForms(t *testing.T) {
	w := newWorld(t)
	at := w.upload("deed", "deed.pdf") + "/receipt"
	w.seal()
	w.mine(100, true)
	tags := map[string]string{}
	for accept, want := range map[string]string{
		"":                                    "application/json",
		"*/*":                                 "application/json",
		"text/html, */*;q=0.1":                "application/json",
		"application/*":                       "application/json",
		typeOTS:                               typeOTS,
		"application/json;q=0.5, " + typeOTS:  typeOTS,
		"application/json;q=0, application/*": typeOTS,
	} {
		a := w.as("calpe_alice", "GET", at, nil, "Accept", accept)
		if a.status != 200 || a.header.Get("Content-Type") != want || a.header.Get("Vary") != "Accept" {
			t.Fatalf("Accept %q: %d %v %.100s", accept, a.status, a.header, a.body)
		}
		tag := a.header.Get("ETag")
		if earlier := tags[want]; earlier != "" && earlier != tag {
			t.Errorf("Accept %q: tag %s, before it was %s", accept, tag, earlier)
		}
		tags[want] = tag
		if again := w.as("calpe_alice", "GET", at, nil, "Accept", accept, "If-None-Match", tag); again.status != 304 || again.header.Get("Vary") != "Accept" {
			t.Errorf("Accept %q with the same tag: %d", accept, again.status)
		}
		if want == "application/json" {
			if _, err := receipt.Decode(a.body); err != nil {
				t.Errorf("Accept %q: %v", accept, err)
			}
			continue
		}
		if got := a.header.Get("Content-Disposition"); got != "attachment; filename=deed.pdf.ots" {
			t.Errorf("Content-Disposition %q", got)
		}
		wantAttestations(t, a.body, "deed", ots.BitcoinBlock(100))
	}
	if tags[typeOTS] == tags["application/json"] {
		t.Error("both forms have the same tag")
	}
	if a := w.as("calpe_alice", "GET", at, nil, "Accept", typeOTS, "If-None-Match", tags["application/json"]); a.status != 200 {
		t.Errorf("who has the JSON asks for the other form: %d", a.status)
	}
	for _, accept := range []string{"text/html", "application/json;q=0", "application/pdf, text/*"} {
		a := w.as("calpe_alice", "GET", at, nil, "Accept", accept)
		if a.code(t) != string(calpe.CodeNotAcceptable) || a.header.Get("Vary") != "Accept" {
			t.Errorf("Accept %q: %d %s", accept, a.status, a.body)
		}
	}
}

// wantAttestations reads an .ots file for a text.
func wantAttestations(t *testing.T, file []byte, text string, want ...ots.Attestation) {
	t.Helper()
	f, err := ots.Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte(text))
	var got []ots.Attestation
	for _, a := range f.Timestamp().All() {
		got = append(got, a)
	}
	if f.Hash() != ots.SHA256 || !slices.Equal(f.Digest(), digest[:]) || !slices.Equal(got, want) {
		t.Errorf("%s %x with %v, want %v", f.Hash(), f.Digest(), got, want)
	}
}

func TestTimestampFileWithoutName(t *testing.T) {
	w := newWorld(t)
	at := w.as("calpe_alice", "POST", "/v1/documents", strings.NewReader("deed")).header.Get("Location")
	w.seal()
	w.mine(100, false)
	a := w.as("calpe_alice", "GET", at+"/receipt", nil, "Accept", typeOTS)
	if got, want := a.header.Get("Content-Disposition"), "attachment; filename="+at[len("/v1/documents/"):]+".ots"; got != want {
		t.Errorf("Content-Disposition %q, want %q", got, want)
	}
}

// Before there is a block, the answer says when to come back.
func TestTimestampFileBeforeTheBlock(t *testing.T) {
	w := newWorld(t)
	at := w.upload("deed", "deed.pdf") + "/receipt"
	ask := func(retryAfter, detail string) {
		t.Helper()
		a := w.as("calpe_alice", "GET", at, nil, "Accept", typeOTS)
		if a.code(t) != string(calpe.CodeNotAnchored) || a.status != 409 || a.header.Get("Retry-After") != retryAfter || a.header.Get("ETag") != "" {
			t.Errorf("%d, Retry-After %q: %s", a.status, a.header.Get("Retry-After"), a.body)
		}
		if !strings.Contains(string(a.body), detail) {
			t.Errorf("%s doesn't say %q", a.body, detail)
		}
	}
	ask("5", "No block of Bitcoin holds the document yet. The receipt") // on regtest nobody knows when
	w.onMainnet()
	ask("3600", "at about 2026-11-21T10:30:10Z") // a checkpoint in 10 s, then 6 blocks
	w.seal()
	ask("3600", "at about 2026-11-21T10:30:00Z")
	w.marks.Broadcast = w.head.Size
	ask("600", "at about 2026-11-21T09:40:00Z") // the transaction is out, long since: the next block
	w.config.Schedule = api.Schedule{}
	w.serve()
	ask("5", "No block of Bitcoin holds the document yet. The receipt")
}

// onMainnet lets the deployment be one whose blocks nobody makes at will.
func (w *world) onMainnet() {
	w.t.Helper()
	genesis, err := calpe.ParseBlockHash("000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f")
	if err != nil {
		w.t.Fatal(err)
	}
	w.identity.Network, w.identity.Genesis = calpe.Mainnet, genesis
	w.config.Identity = w.identity
	w.serve()
}

func TestTimestampFilePendingAtTheCalendar(t *testing.T) {
	w := newWorld(t)
	const calendar = "https://calendar.calpe.example"
	w.config.CalendarURI = calendar
	w.serve()
	at := w.upload("deed", "deed.pdf") + "/receipt"
	pending, err := ots.PendingAt(calendar)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // received, then checkpointed
		a := w.as("calpe_alice", "GET", at, nil, "Accept", typeOTS)
		if a.status != 200 {
			t.Fatalf("%d %s", a.status, a.body)
		}
		wantAttestations(t, a.body, "deed", pending)
		w.seal()
	}
	w.mine(100, false)
	wantAttestations(t, w.as("calpe_alice", "GET", at, nil, "Accept", typeOTS).body, "deed", ots.BitcoinBlock(100))
	w.config.CalendarURI = "no address\n"
	if _, err := api.New(w.config); err == nil {
		t.Error("New took a calendar that no client can ask")
	}
}
