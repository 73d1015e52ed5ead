package api_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/api"
	"github.com/calpe/calpe/intake"
)

var _ api.Finder = (*intake.Finder)(nil)

// findWorld is a world whose documents have codes and can be found.
type findWorld struct {
	*world
	asked int // look-ups that came through to the finder
}

var testCode = calpe.NewFindCode([18]byte{1, 2, 3})

func newFindWorld(t *testing.T, edit ...func(*api.Config)) *findWorld {
	t.Helper()
	w := &findWorld{world: newWorld(t)}
	cfg := w.config
	cfg.Finder = w
	for _, e := range edit {
		e(&cfg)
	}
	var err error
	if w.server, err = api.New(cfg); err != nil {
		t.Fatal(err)
	}
	return w
}

// keep adds a document of that text, without going through HTTP.
func (w *findWorld) keep(text string, code calpe.FindCode, agency string) uint64 {
	digest := calpe.Digest(sha256.Sum256([]byte(text)))
	d := intake.Document{
		ID: documentID(uint64(len(w.entries))), Index: w.add(calpe.Commit(digest, calpe.Salt{7})), Owner: "alice", Name: "secret-name.pdf",
		Digest: digest, Salt: calpe.Salt{7}, Code: code, Size: int64(len(text)), Created: w.now,
	}
	if agency != "" {
		d.Certification = &intake.Certification{Agency: agency}
	}
	w.documents[d.ID] = d
	return d.Index
}

func found(d intake.Document) calpe.Found {
	f := calpe.Found{Index: d.Index, Received: d.Created}
	if d.Certification != nil {
		f.Agency = d.Certification.Agency
	}
	return f
}

func (w *findWorld) FindByDigest(_ context.Context, digest calpe.Digest, limit int) ([]calpe.Found, error) {
	w.asked++
	var list []calpe.Found
	for index := len(w.entries) - 1; index >= 0 && len(list) < limit; index-- {
		if d, ok := w.documents[documentID(uint64(index))]; ok && d.Digest == digest {
			list = append(list, found(d))
		}
	}
	return list, w.unavailable()
}

func (w *findWorld) FindByCode(_ context.Context, code calpe.FindCode) (calpe.Found, error) {
	w.asked++
	for _, d := range w.documents {
		if d.Code == code {
			return found(d), w.unavailable()
		}
	}
	return calpe.Found{}, calpe.Errorf(calpe.CodeNotFound, "no such code")
}

// look asks from an address of the documentation's network.
func (w *findWorld) look(query string) answer { return w.lookFrom("192.0.2.1:4711", query) }

func (w *findWorld) lookFrom(remote, query string, forwarded ...string) answer {
	w.t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/v1/find?"+query, nil)
	r.RemoteAddr = remote
	for _, f := range forwarded {
		r.Header.Add("X-Forwarded-For", f)
	}
	rec := httptest.NewRecorder()
	w.server.ServeHTTP(rec, r)
	return answer{rec.Code, rec.Header(), rec.Body.Bytes()}
}

func digestQuery(text string) string { return fmt.Sprintf("digest=%x", sha256.Sum256([]byte(text))) }

// The answer is written out: whatever else came into it would be told to everybody.
func TestFind(t *testing.T) {
	w := newFindWorld(t)
	w.keep("other", calpe.FindCode{}, "")
	w.keep("deed", testCode, "registry")
	log := fmt.Sprintf(`"log":"%s","origin":"test.calpe.example/log","network":"regtest"`, w.identity.Hash())
	const received = `"received":"2026-11-21T09:30:00Z","certified_by":"registry"`

	want := fmt.Sprintf(`{%s,"found":[{"index":2,"state":"received",%s}]}`+"\n", log, received)
	spellings := []string{"code=" + testCode.String(), "code=" + strings.ToLower(strings.ReplaceAll(testCode.String(), "-", "+"))}
	for _, query := range append(spellings, digestQuery("deed")) {
		a := w.look(query)
		if a.status != http.StatusOK || string(a.body) != want {
			t.Errorf("%s: %d %s, want %s", query, a.status, a.body, want)
		}
		if a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: Cache-Control %q", query, a.header.Get("Cache-Control"))
		}
	}
	w.seal()
	w.anchor = &calpe.Anchor{Payload: calpe.Payload{Size: 3}, Height: 812, Block: calpe.BlockHash{1}, TxID: calpe.BlockHash{2}}
	binary.LittleEndian.PutUint32(w.anchor.Header[68:], uint32(w.now.Unix()+600))
	want = fmt.Sprintf(`{%s,"found":[{"index":2,"state":"checkpointed",%s,"anchor":{"height":812,"block":"%s","time":"2026-11-21T09:40:00Z","txid":"%s"}}]}`+"\n",
		log, received, calpe.BlockHash{1}, calpe.BlockHash{2})
	if a := w.look(spellings[0]); string(a.body) != want {
		t.Errorf("anchored: %s, want %s", a.body, want)
	}
}

func TestFindSeveralOfOneDigest(t *testing.T) {
	w := newFindWorld(t)
	for range 21 {
		w.keep("deed", calpe.FindCode{}, "")
	}
	var got struct {
		Found []struct{ Index uint64 }
		More  bool
	}
	if err := json.Unmarshal(w.look(digestQuery("deed")).body, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Found) != 20 || got.Found[0].Index != 21 || got.Found[19].Index != 2 || !got.More {
		t.Errorf("found %+v, want 21 to 2, and more", got)
	}
}

func TestFindRefused(t *testing.T) {
	w := newFindWorld(t)
	w.keep("deed", testCode, "")
	good := testCode.String()
	wrong := strings.Replace(good, "1", "2", 1)
	for query, want := range map[string]struct {
		code   calpe.Code
		detail string
	}{
		"":                                    {calpe.CodeInvalidRequest, "one digest"},
		"code=":                               {calpe.CodeInvalidRequest, "0 characters"},
		"code=" + good + "&code=" + good:      {calpe.CodeInvalidRequest, "one digest"},
		digestQuery("deed") + "&code=" + good: {calpe.CodeInvalidRequest, "one digest"},
		"code=" + good + ";x":                 {calpe.CodeInvalidRequest, "one digest"},
		"code=%zz":                            {calpe.CodeInvalidRequest, "one digest"},
		"code=" + wrong:                       {calpe.CodeInvalidRequest, "last two characters"},
		"code=U" + good[1:]:                   {calpe.CodeInvalidRequest, "character 1 of the code is 'U'"},
		"digest=abc":                          {calpe.CodeInvalidRequest, "64 lower-case"},
		strings.ToUpper(digestQuery("x")[7:]): {calpe.CodeInvalidRequest, "one digest"},
		"digest=" + strings.Repeat("A", 64):   {calpe.CodeInvalidRequest, "64 lower-case"},
		digestQuery("never uploaded"):         {calpe.CodeNotFound, "Nothing here has that digest or code."},
		"code=" + calpe.NewFindCode([18]byte{9}).String(): {calpe.CodeNotFound, "Nothing here has that digest or code."},
	} {
		w.now = w.now.Add(time.Minute) // the limit on look-ups is another test's matter
		a := w.look(query)
		if got := a.code(t); got != string(want.code) || !strings.Contains(string(a.body), want.detail) {
			t.Errorf("%q: %s, want %s with %q", query, a.body, want.code, want.detail)
		}
	}
	if strings.Contains(w.logs.String(), good) || strings.Contains(w.logs.String(), digestQuery("never uploaded")) {
		t.Error("the log holds what was asked for")
	}
	w.down = errors.New("database is down")
	for _, query := range []string{digestQuery("deed"), "code=" + good} {
		if a := w.look(query); a.status < 500 || strings.Contains(string(a.body), "database is down") {
			t.Errorf("without a database: %d %s", a.status, a.body)
		}
	}
}

// Rows are read before the watermarks; an index above them is a defect to be told, not hidden.
func TestFindBeyondTheLog(t *testing.T) {
	w := newFindWorld(t)
	w.keep("deed", testCode, "")
	w.entries = w.entries[:1]
	if got := w.look("code=" + testCode.String()).code(t); got != string(calpe.CodeUnavailable) {
		t.Errorf("code %s", got)
	}
}

func TestFindCanBeOff(t *testing.T) {
	w := newFindWorld(t, func(c *api.Config) { c.Finder = nil })
	a := w.look("code=" + testCode.String())
	if got := a.code(t); got != string(calpe.CodeNotFound) || w.asked != 0 {
		t.Errorf("code %s, asked %d times", got, w.asked)
	}
	for _, limits := range [][2]int{{-1, 0}, {0, -1}} {
		bad := w.config
		bad.FindPerMinute, bad.FindTotal = limits[0], limits[1]
		if _, err := api.New(bad); err == nil {
			t.Errorf("limits %v accepted", limits)
		}
	}
}

func TestFindIsLimitedByNetwork(t *testing.T) {
	w := newFindWorld(t, func(c *api.Config) { c.FindPerMinute, c.FindTotal = 3, 100 })
	ask := func(remote string) answer { return w.lookFrom(remote, "code="+testCode.String()) }
	limited := func(remote, retryAfter string) {
		t.Helper()
		before := w.asked
		a := ask(remote)
		if got := a.code(t); got != string(calpe.CodeTooManyRequests) || a.header.Get("Retry-After") != retryAfter || w.asked != before {
			t.Errorf("%s: code %s, Retry-After %q, want %q; %d look-ups", remote, got, a.header.Get("Retry-After"), retryAfter, w.asked-before)
		}
	}
	open := func(remote string) {
		t.Helper()
		if a := ask(remote); a.status != http.StatusNotFound {
			t.Errorf("%s: %d %s", remote, a.status, a.body)
		}
	}
	for _, same := range [][3]string{
		{"198.51.100.1:1", "198.51.100.77:2", "[::ffff:198.51.100.200]:3"},
		{"[2001:db8::1]:1", "[2001:db8::2]:2", "[2001:db8:0:0:ffff::3%eth0]:3"},
		{"unknown", "@", ""}, // of a Unix socket, say
	} {
		open(same[0])
		open(same[1])
		open(same[2])
		limited(same[0], "20")
		w.now = w.now.Add(19 * time.Second)
		limited(same[1], "1")
		w.now = w.now.Add(time.Second)
		open(same[2])
		limited(same[0], "20")
	}
	open("198.51.101.1:1")
	open("[2001:db8:0:1::1]:1")
}

func TestFindIsLimitedInTotal(t *testing.T) {
	w := newFindWorld(t, func(c *api.Config) { c.FindPerMinute, c.FindTotal = 3, 12 })
	from := func(n int) answer {
		return w.lookFrom(fmt.Sprintf("10.%d.%d.1:1", n/256, n%256), "code="+testCode.String())
	}
	for range 40 { // one network alone doesn't use up everybody's share
		from(0)
	}
	if w.asked != 3 {
		t.Fatalf("%d look-ups of one network, want 3", w.asked)
	}
	for n := range 1000 {
		from(n + 1)
	}
	if w.asked != 12 {
		t.Errorf("%d look-ups of all, want 12", w.asked)
	}
	if a := from(2000); a.code(t) != string(calpe.CodeTooManyRequests) || a.header.Get("Retry-After") != "5" {
		t.Errorf("%d, Retry-After %q", a.status, a.header.Get("Retry-After"))
	}
	w.now = w.now.Add(5 * time.Second)
	from(2000)
	from(2001)
	if w.asked != 13 {
		t.Errorf("%d look-ups five seconds later, want 13", w.asked)
	}
}

// Who asks is told by the proxies that are trusted, and by nobody else.
func TestClientAddress(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("10.0.0.0/8")}
	for _, c := range []struct {
		remote    string
		forwarded []string
		want      string
	}{
		{"192.0.2.1:1", nil, "192.0.2.1"},
		{"192.0.2.1:1", []string{"198.51.100.1"}, "192.0.2.1"},
		{"127.0.0.1:1", nil, "127.0.0.1"},
		{"127.0.0.1:1", []string{"198.51.100.1"}, "198.51.100.1"},
		{"[::1]:1", []string{"2001:db8::1"}, "2001:db8::1"},
		{"[::ffff:127.0.0.1]:1", []string{"198.51.100.1"}, "198.51.100.1"},
		{"127.0.0.1:1", []string{"203.0.113.9, 198.51.100.1, 10.1.1.1"}, "198.51.100.1"},
		{"127.0.0.1:1", []string{"203.0.113.9", "198.51.100.1:5555"}, "198.51.100.1"},
		{"127.0.0.1:1", []string{"[2001:db8::1]:443"}, "2001:db8::1"},
		{"127.0.0.1:1", []string{"[2001:db8::1]"}, "2001:db8::1"},
		{"127.0.0.1:1", []string{"198.51.100.1, unknown"}, "127.0.0.1"},
		{"127.0.0.1:1", []string{"198.51.100.1, unknown, 10.1.1.1"}, "10.1.1.1"},
		{"127.0.0.1:1", []string{"10.1.1.2,10.1.1.1"}, "10.1.1.2"},
		{"nonsense", []string{"198.51.100.1"}, "invalid IP"},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr = c.remote
		r.Header["X-Forwarded-For"] = c.forwarded
		if got := api.ClientAddress(r, trusted).String(); got != c.want {
			t.Errorf("%s for %q is %s, want %s", c.remote, c.forwarded, got, c.want)
		}
	}
}

// Memory follows what was let through, not what was asked, and falls again.
func TestQuotaForgets(t *testing.T) {
	now := time.Date(2026, 11, 21, 9, 30, 0, 0, time.UTC)
	q := api.NewQuota(5, 100, func() time.Time { return now })
	most := 0
	for n := range uint32(100_000) {
		var ip [4]byte
		binary.BigEndian.PutUint32(ip[:], n<<8)
		q.Take(api.Network(netip.AddrFrom4(ip)))
		most = max(most, q.Clients())
		now = now.Add(10 * time.Millisecond)
	}
	if most > 400 {
		t.Errorf("%d networks were remembered at once, want at most what two minutes let through", most)
	}
	now = now.Add(2 * time.Minute)
	q.Take(api.Network(netip.Addr{}))
	if got := q.Clients(); got != 1 {
		t.Errorf("%d networks are remembered after two quiet minutes, want the one that asks", got)
	}
}

func TestUploadAnswersWithTheCode(t *testing.T) {
	w := newFindWorld(t)
	w.keep("deed", testCode, "")
	w.keep("old", calpe.FindCode{}, "")
	for id, want := range map[calpe.DocumentID]string{documentID(1): testCode.String(), documentID(2): ""} {
		var got map[string]any
		if err := json.Unmarshal(w.as("calpe_alice", "GET", "/v1/documents/"+id.String(), nil).body, &got); err != nil {
			t.Fatal(err)
		}
		code, _ := got["code"].(string)
		if diff := cmp.Diff(want, code); diff != "" {
			t.Errorf("code of %s (-want +got):\n%s", id, diff)
		}
	}
}

// Nothing that stands in the query is our fault.
func FuzzFind(f *testing.F) {
	f.Add("code=" + testCode.String())
	f.Add(digestQuery("deed"))
	f.Add("code=%00&digest=;")
	f.Fuzz(func(t *testing.T, query string) {
		w := newFindWorld(t)
		w.keep("deed", testCode, "")
		r := httptest.NewRequest(http.MethodGet, "/v1/find", nil)
		r.URL.RawQuery = query
		rec := httptest.NewRecorder()
		w.server.ServeHTTP(rec, r)
		switch rec.Code {
		case http.StatusOK, http.StatusNotFound, http.StatusBadRequest:
		default:
			t.Errorf("%q: %d %s", query, rec.Code, rec.Body)
		}
	})
}
