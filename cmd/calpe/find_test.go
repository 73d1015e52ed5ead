package main

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt/headers"
	"github.com/calpe/calpe/receipt/statement"
)

// getFind answers as the API does: nothing of name, owner and content.
func (s *fakeService) getFind(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "" {
		s.t.Error("find sends a token")
	}
	digest, code := r.URL.Query().Get("digest"), r.URL.Query().Get("code")
	if len(r.URL.Query()) != 1 {
		refuse(w, http.StatusBadRequest, calpe.CodeInvalidRequest, "Ask for one digest or one code.")
		return
	}
	var docs []*fakeDocument
	for _, d := range s.docs {
		if d.digest.String() == digest || d.code.String() == code {
			docs = append(docs, d)
		}
	}
	if len(docs) == 0 {
		refuse(w, http.StatusNotFound, calpe.CodeNotFound, "Nothing here has that digest or code.")
		return
	}
	slices.SortFunc(docs, func(a, b *fakeDocument) int { return cmp.Compare(b.index, a.index) })
	var list []map[string]any
	for _, d := range docs {
		list = append(list, s.found(d))
	}
	answerJSON(w, http.StatusOK, map[string]any{"log": s.id.Hash(), "origin": s.id.Origin, "network": s.id.Network, "found": list})
}

func (s *fakeService) found(d *fakeDocument) map[string]any {
	one := map[string]any{"index": d.index, "state": s.state(d.index), "received": "2026-11-21T09:30:00Z", "unheard-of": 1}
	if d.certification != nil {
		one["certified_by"] = d.certification.Body().(statement.Certification).Agency
	}
	if a := s.anchors[s.tree(d.index)]; a != nil {
		h, err := headers.Parse(a.Header)
		if err != nil {
			s.t.Error(err)
		}
		one["anchor"] = map[string]any{"height": a.Height, "block": calpe.BlockHash(h.Hash), "time": h.Time, "txid": calpe.BlockHash{1}}
	}
	return one
}

// asked is how often the service was asked to find something.
func (h *harness) asked() int {
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	n := 0
	for _, r := range h.s.requests {
		if r.path == "/v1/find" {
			n++
		}
	}
	return n
}

func TestFindCommand(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	deed := h.write("deed.pdf", []byte("deed"))
	other := h.write("other.pdf", []byte("other"))
	r := h.expect(exitOK, []string{"upload", deed}, "; code: ")
	code := strings.TrimSpace(r.out[strings.LastIndex(r.out, " "):])
	if _, err := calpe.ParseFindCode(code); err != nil {
		t.Fatalf("upload printed the code %q: %v", code, err)
	}
	h.env["CALPE_TOKEN"] = "" // whoever looks for something has none
	digest := fmt.Sprintf("%x", sha256.Sum256([]byte("deed")))
	for _, args := range [][]string{
		{deed}, {"--digest", digest}, {"--digest", strings.ToUpper(digest)}, {"--code", code}, {"--code", strings.ToLower(strings.ReplaceAll(code, "-", " "))},
	} {
		h.expect(exitOK, append([]string{"find"}, args...), "found in the log "+testOrigin, "entry 1: received 2026-11-21 09:30:00 UTC, not certified",
			"received, not anchored", "The owner's receipt proves it")
	}
	h.stdin = "deed"
	h.expect(exitOK, []string{"find", "-"}, "-: found", "entry 1")

	r = h.expect(exitRefuted, []string{"find", deed, other}, "entry 1", other+": not found")
	if strings.Contains(r.err, "HTTP") || len(h.waits) > 0 {
		t.Errorf("what isn't found is an error, or tried again %d times: %s", len(h.waits), r.err)
	}
	h.expect(exitRefuted, []string{"find", "--code", calpe.NewFindCode([18]byte{5}).String()}, "not found")
}

func TestFindAnchoredAndCertified(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	key := h.s.register("registry")
	deed := h.write("deed.pdf", []byte("deed"))
	signed, err := statement.Sign(key, statement.Certification{Agency: "registry", Digest: sha256.Sum256([]byte("deed")),
		DocumentType: "deed", Subject: "2026/17", Issued: statement.DateOf(testNow)})
	if err != nil {
		t.Fatal(err)
	}
	h.onWait = h.s.advance
	h.expect(exitOK, []string{"upload", deed, "--certification", h.write("certification.json", signed.Bytes()), "--wait", "final"})
	h.expect(exitOK, []string{"find", deed}, "certified by registry", "; final, in block ", "of regtest, of 20", "no evidential value")
}

func TestFindJSON(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	deed, other := h.write("deed.pdf", []byte("deed")), h.write("other.pdf", []byte("other"))
	h.expect(exitOK, []string{"upload", deed})
	h.expect(exitOK, []string{"upload", h.write("copy.pdf", []byte("deed"))})
	r := h.expect(exitRefuted, []string{"find", "--json", deed, other})
	var got []findReport
	for dec := json.NewDecoder(strings.NewReader(r.out)); dec.More(); {
		var one findReport
		if err := dec.Decode(&one); err != nil {
			t.Fatalf("%v in %s", err, r.out)
		}
		got = append(got, one)
	}
	if len(got) != 2 || len(got[0].Found) != 2 || len(got[1].Found) != 0 {
		t.Fatalf("answers %+v", got)
	}
	first := got[0].Found[1]
	if first.Index != 1 || first.State != calpe.Received || !first.Received.Equal(testNow) || got[0].Asked.File != deed ||
		*got[0].Asked.Digest != sha256.Sum256([]byte("deed")) || got[0].Log != h.s.id.Hash() || got[1].Asked.File != other {
		t.Errorf("answers %+v", got)
	}
	if !strings.Contains(r.out, `"found": []`) {
		t.Errorf("nothing found isn't an empty list:\n%s", r.out)
	}
}

// Only the digest goes out, and not even that of a wrong command line.
func TestFindSendsLittle(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	deed := h.write("deed.pdf", []byte("deed"))
	code := calpe.NewFindCode([18]byte{5}).String()
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "give files"},
		{[]string{deed, "--code", code}, "give files"},
		{[]string{"--digest", strings.Repeat("0", 64), "--code", code}, "give files"},
		{[]string{"--digest", "abc"}, "--digest"},
		{[]string{"--code", "U" + code[1:]}, `character 1 of the code is 'U'`},
		{[]string{"--code", code[:len(code)-1] + "0"}, "last two characters"},
		{[]string{h.path("nowhere.pdf")}, "nowhere.pdf"},
		{[]string{deed, "--identity", h.write("broken.json", []byte("{}"))}, "broken.json"},
		{[]string{deed, "--server", ""}, "CALPE_SERVER"},
	} {
		if c.want == "CALPE_SERVER" {
			h.env["CALPE_SERVER"] = ""
		}
		h.expect(exitUsage, append([]string{"find"}, c.args...), c.want)
	}
	if n := h.asked(); n != 0 {
		t.Errorf("the service was asked %d times", n)
	}
	query, err := url.ParseQuery(sought{File: "secret-name.pdf", Digest: &calpe.Digest{1}}.query().Encode())
	if err != nil || len(query) != 1 || query.Get("digest") != (calpe.Digest{1}).String() {
		t.Errorf("query %v, %v", query, err)
	}
}

// Whatever the service answers but "not found" isn't taken for that.
func TestFindFaults(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	deed := h.write("deed.pdf", []byte("deed"))
	h.expect(exitOK, []string{"upload", deed})
	slow := func(_ *fakeService, w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "20")
		refuse(w, http.StatusTooManyRequests, calpe.CodeTooManyRequests, "")
	}
	h.s.fail("/v1/find", slow, slow)
	h.expect(exitOK, []string{"find", deed}, "entry 1", "asks to wait 20s")
	if len(h.waits) != 2 || h.waits[0] < 20*time.Second {
		t.Errorf("waited %v, want twice 20s", h.waits)
	}
	answering := func(status int, body string) func(*fakeService, http.ResponseWriter, *http.Request) {
		return func(_ *fakeService, w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			fmt.Fprint(w, body)
		}
	}
	for body, want := range map[string]string{
		`{`:                                      "can't be read",
		`{"found":[]}`:                           "found nothing",
		`{"found":[{"index":1,"state":"lost"}]}`: "lost",
		`{"found":[{"index":1,"state":"received"}]}`:       "pinned identity",
		`{"found":[{"index":-1,"state":"received"}]}`:      "can't be read",
		`{"found":[{"index":1,"state":"\u001b[2J"}]}`:      "can't be read",
		`{"found":"` + strings.Repeat("x", 300<<10) + `"}`: "more than",
	} {
		h.s.fail("/v1/find", answering(http.StatusOK, body))
		h.expect(exitUsage, []string{"find", deed}, want)
	}
	h.s.fail("/v1/find", answering(http.StatusNotFound, "a proxy's page"))
	h.expect(exitUsage, []string{"find", deed}, "HTTP 404")
	h.env["CALPE_IDENTITY"] = ""
	h.s.fail("/v1/find", answering(http.StatusOK, `{"origin":"\u001b[2Jx","found":[{"index":1,"state":"final","certified_by":"\u001b]0;"}]}`))
	if r := h.expect(exitOK, []string{"find", deed}); strings.Contains(r.out, "\x1b") {
		t.Errorf("a service's words reach the terminal as they are: %q", r.out)
	}
}
