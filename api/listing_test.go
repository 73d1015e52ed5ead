package api_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/intake"
	"github.com/calpe/calpe/receipt"
)

// listed is a page of documents by their names.
func (w *world) listed(token, target string) (names []string, next string) {
	w.t.Helper()
	a := w.as(token, "GET", target, nil)
	var page struct {
		Documents []struct{ Name string }
		Next      string
	}
	if err := json.Unmarshal(a.body, &page); err != nil || a.status != 200 {
		w.t.Fatalf("GET %s: %d %s", target, a.status, a.body)
	}
	for _, d := range page.Documents {
		names = append(names, d.Name)
	}
	link := ""
	if page.Next != "" {
		link = "<" + page.Next + `>; rel="next"`
	}
	if got := a.header.Get("Link"); got != link {
		w.t.Errorf("GET %s: Link %q, next %q", target, got, page.Next)
	}
	return names, page.Next
}

// fiveDocuments are one in each state, d1 the oldest, uploaded a day after another.
func (w *world) fiveDocuments() {
	w.t.Helper()
	for i := range 5 {
		at := w.upload(fmt.Sprint("deed ", i+1), fmt.Sprint("d", i+1))
		if i == 1 || i == 3 {
			id, err := calpe.ParseDocumentID(at[len("/v1/documents/"):])
			if err != nil {
				w.t.Fatal(err)
			}
			d := w.documents[id]
			d.Certification = &intake.Certification{Agency: "registry"}
			w.documents[id] = d
		}
		if i < 4 {
			w.seal()
		}
		if i < 2 {
			w.mine(uint32(100+i), i == 0)
		}
		if i == 2 {
			w.marks.Broadcast = w.head.Size
		}
		w.now = w.now.AddDate(0, 0, 1)
	}
}

func TestListDocuments(t *testing.T) {
	w := newWorld(t)
	w.token("calpe_bob", "bob", "documents")
	w.fiveDocuments()
	for query, want := range map[string][]string{
		"":                        {"d5", "d4", "d3", "d2", "d1"},
		"state=received":          {"d5"},
		"state=checkpointed":      {"d4"},
		"state=broadcast":         {"d3"},
		"state=confirmed":         {"d2"},
		"state=final":             {"d1"},
		"certified_by=registry":   {"d4", "d2"},
		"certified_by=nobody":     nil,
		"created_from=2026-11-23": {"d5", "d4", "d3"},
		"created_to=2026-11-23":   {"d2", "d1"},
		"created_from=2026-11-22T10:30:00%2B01:00&created_to=2026-11-24T09:30:00Z": {"d3", "d2"},
		"certified_by=registry&state=confirmed&limit=1":                            {"d2"},
	} {
		got, next := w.listed("calpe_alice", "/v1/documents?"+query)
		if diff := cmp.Diff(want, got); diff != "" || next != "" {
			t.Errorf("?%s (-want +got), next %q:\n%s", query, next, diff)
		}
	}
	if got, _ := w.listed("calpe_bob", "/v1/documents"); got != nil {
		t.Errorf("another owner sees %q", got)
	}
}

// A page goes on where the one before ended, whatever was added meanwhile.
func TestPagesDoNotShift(t *testing.T) {
	w := newWorld(t)
	w.fiveDocuments()
	var all []string
	for next := "/v1/documents?limit=2"; next != ""; {
		var names []string
		names, next = w.listed("calpe_alice", next)
		all = append(all, names...)
		w.upload("another deed", "later")
	}
	if diff := cmp.Diff([]string{"d5", "d4", "d3", "d2", "d1"}, all); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	_, next := w.listed("calpe_alice", "/v1/documents?limit=2&certified_by=registry&created_from=2026-11-01&state=confirmed")
	if next != "" {
		t.Errorf("the only match has a next page %q", next)
	}
	_, next = w.listed("calpe_alice", "/v1/documents?limit=1&certified_by=registry")
	if u, err := url.Parse(next); err != nil || u.Query().Get("certified_by") != "registry" || u.Query().Get("limit") != "1" {
		t.Errorf("the next page %q isn't of the same list", next)
	}
}

func TestListRefusals(t *testing.T) {
	w := newWorld(t)
	w.fiveDocuments()
	_, documents := w.listed("calpe_alice", "/v1/documents?limit=1")
	cursor := documents[strings.Index(documents, "cursor="):]
	cursor, _, _ = strings.Cut(cursor, "&")
	for _, target := range []string{
		"/v1/documents?limit=0", "/v1/documents?limit=101", "/v1/documents?limit=x", "/v1/documents?limit=01", "/v1/documents?limit=1&limit=2",
		"/v1/documents?cursor=x", "/v1/documents?cursor=YQAAAAUAAAAD", "/v1/documents?certified-by=registry", "/v1/documents?certified_by=Registry",
		"/v1/documents?state=done", "/v1/documents?created_from=yesterday", "/v1/documents?created_to=2026-13-01", "/v1/documents?created_from=0000-01-01",
		"/v1/anchors?limit=101", "/v1/anchors?state=final", "/v1/anchors?" + cursor,
	} {
		if got := w.as("calpe_alice", "GET", target, nil).code(t); got != string(calpe.CodeInvalidRequest) {
			t.Errorf("GET %s: %s", target, got)
		}
	}
}

func TestAnchors(t *testing.T) {
	w := newWorld(t)
	for height := range uint32(5) {
		w.add(calpe.Commitment{byte(height + 1)})
		w.seal()
		w.mine(100+height, height < 3)
	}
	type summary struct {
		TxID          calpe.BlockHash
		Size          uint64
		Height        uint32
		Time          time.Time
		Confirmations uint32
		State         calpe.State
	}
	var all []summary
	for next := "/v1/anchors?limit=2"; next != ""; {
		var page struct {
			Anchors []summary
			Next    string
		}
		if err := json.Unmarshal(w.do("GET", next, nil).body, &page); err != nil {
			t.Fatal(err)
		}
		all, next = append(all, page.Anchors...), page.Next
	}
	var want []summary
	for _, a := range slices.Backward(w.anchors) {
		state := calpe.Confirmed
		if a.Final {
			state = calpe.Final
		}
		want = append(want, summary{a.TxID, a.Size, a.Height, w.now, 2, state})
	}
	if diff := cmp.Diff(want, all); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The evidence of an anchor leads from a checkpoint that verifies to the block.
func TestAnchorEvidence(t *testing.T) {
	w := newWorld(t)
	w.add(calpe.Commitment{1})
	w.seal()
	anchor := w.mine(100, true)
	w.add(calpe.Commitment{2})
	w.seal()
	var got struct {
		Checkpoint string
		Anchor     *receipt.Anchor
	}
	if err := json.Unmarshal(w.do("GET", "/v1/anchors/"+anchor.TxID.String(), nil).body, &got); err != nil {
		t.Fatal(err)
	}
	cp, err := receipt.OpenCheckpoint([]byte(got.Checkpoint), w.identity)
	if err != nil || cp.Size != anchor.Size || cp.Root != anchor.Root {
		t.Errorf("checkpoint %+v, %v", cp, err)
	}
	if diff := cmp.Diff(receipt.NewAnchor(w.identity, anchor), got.Anchor); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for path, want := range map[string]calpe.Code{
		"/v1/anchors/" + strings.Repeat("0", 64):               calpe.CodeNotFound,
		"/v1/anchors/" + strings.ToUpper(anchor.TxID.String()): calpe.CodeInvalidRequest,
		"/v1/anchors/1": calpe.CodeInvalidRequest,
	} {
		if got := w.do("GET", path, nil).code(t); got != string(want) {
			t.Errorf("GET %s: %s, want %s", path, got, want)
		}
	}
}

func TestStatus(t *testing.T) {
	w := newWorld(t)
	w.onMainnet()
	expect := func(want string) {
		t.Helper()
		var got struct {
			Next, Checkpointed, Broadcast, Confirmed, Final uint64
			Expected                                        json.RawMessage
			Funds                                           string                   `json:"funds"`
			AnchorsLeft                                     int64                    `json:"anchors_left"`
			AnchorsNow                                      int64                    `json:"anchors_left_at_fee_rate"`
			FeeRate                                         int64                    `json:"fee_rate"`
			NewestAnchor                                    *struct{ Height uint32 } `json:"newest_anchor"`
		}
		if err := json.Unmarshal(w.do("GET", "/v1/status", nil).body, &got); err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprint(got.Next, got.Checkpointed, got.Broadcast, got.Confirmed, got.Final, " ", string(got.Expected))
		if text != want || got.AnchorsLeft != 42 || got.AnchorsNow != 420 || got.FeeRate != 2500 || got.Funds != "low" || (got.NewestAnchor != nil) != (len(w.anchors) > 0) {
			t.Errorf("%s\nwant %s\n%+v", text, want, got)
		}
	}
	// Now is 9:30; the last transaction, if there is one, was made at 9:10.
	expect(`1 0 0 0 0 {"checkpointed":"2026-11-21T09:30:10Z","broadcast":"2026-11-21T09:30:10Z"}`)
	w.seal()
	expect(`1 1 0 0 0 {"broadcast":"2026-11-21T09:30:00Z"}`)
	w.marks.Broadcast = 1
	expect(`1 1 1 0 0 {"confirmed":"2026-11-21T09:40:00Z"}`)
	w.add(calpe.Commitment{1}) // waits for the anchor that is under way
	expect(`2 1 1 0 0 {"checkpointed":"2026-11-21T09:30:10Z","broadcast":"2026-11-21T09:40:00Z","confirmed":"2026-11-21T09:40:00Z"}`)
	w.mine(100, false)
	expect(`2 1 1 1 0 {"checkpointed":"2026-11-21T09:30:10Z","broadcast":"2026-11-21T10:10:00Z","final":"2026-11-21T10:10:00Z"}`)
	w.marks.Final = 1
	w.seal()
	expect(`2 2 1 1 1 {"broadcast":"2026-11-21T10:10:00Z"}`)
}

func TestConditionalRequests(t *testing.T) {
	w := newWorld(t)
	at := w.upload("0123456789", "a")
	tag := w.as("calpe_alice", "GET", at, nil).header.Get("ETag")
	for header, want := range map[string]int{
		"": 200, tag: 304, "W/" + tag: 304, `"x", ` + tag: 304, `"x",W/"y",` + tag + `, "z"`: 304, "*": 304, " * ": 304,
		`"x"`: 200, tag[:5]: 200, tag[1:]: 200, `"x` + tag: 200, "x, " + tag: 200,
	} {
		a := w.as("calpe_alice", "GET", at, nil, "If-None-Match", header)
		if a.status != want || a.header.Get("ETag") != tag || want == 304 && len(a.body) > 0 {
			t.Errorf("If-None-Match %q: %d %v %q, want %d", header, a.status, a.header, a.body, want)
		}
	}
	w.seal() // another state, another tag
	if a := w.as("calpe_alice", "GET", at, nil, "If-None-Match", tag); a.status != 200 {
		t.Errorf("after a change of state: %d", a.status)
	}
	content := w.as("calpe_alice", "GET", at+"/content", nil).header.Get("ETag")
	for condition, want := range map[string]int{content: 206, "": 206, `"x"`: 200, "W/" + content: 200, "Sat, 21 Nov 2026 09:30:00 GMT": 200} {
		if a := w.as("calpe_alice", "GET", at+"/content", nil, "Range", "bytes=0-1", "If-Range", condition); a.status != want {
			t.Errorf("If-Range %q: %d, want %d", condition, a.status, want)
		}
	}
}
