package anchor_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/bitcoin"
	"github.com/calpe/calpe/anchor/bitcoin/nodetest"
	"github.com/calpe/calpe/anchor/ledger"
)

// spoil is what happens to one call of a node, or to its answer. ask makes the
// call and gives the node's answer.
type spoil struct {
	name  string
	hasty bool // the client doesn't wait long
	fine  bool // the caller needn't notice
	do    func(w http.ResponseWriter, r *http.Request, id uint64, ask func() (status int, answer []byte))
}

func spoils() []spoil {
	wait := func(r *http.Request) { <-r.Context().Done() }
	return []spoil{
		{name: "answered too late", hasty: true, do: func(_ http.ResponseWriter, r *http.Request, _ uint64, ask func() (int, []byte)) {
			ask()
			wait(r)
		}},
		{name: "never heard", hasty: true, do: func(_ http.ResponseWriter, r *http.Request, _ uint64, _ func() (int, []byte)) { wait(r) }},
		{name: "made twice", fine: true, do: func(w http.ResponseWriter, _ *http.Request, _ uint64, ask func() (int, []byte)) {
			ask()
			status, answer := ask()
			w.WriteHeader(status)
			_, _ = w.Write(answer)
		}},
		{name: "cut in half", do: func(w http.ResponseWriter, _ *http.Request, _ uint64, ask func() (int, []byte)) {
			status, answer := ask()
			w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
			w.WriteHeader(status)
			_, _ = w.Write(answer[:len(answer)/2])
			panic(http.ErrAbortHandler)
		}},
		{name: "half of it as if whole", do: func(w http.ResponseWriter, _ *http.Request, _ uint64, ask func() (int, []byte)) {
			status, answer := ask()
			w.WriteHeader(status)
			_, _ = w.Write(answer[:len(answer)/2])
		}},
		{name: "401", do: func(w http.ResponseWriter, _ *http.Request, _ uint64, _ func() (int, []byte)) {
			w.WriteHeader(http.StatusUnauthorized)
		}},
		{name: "-28", do: func(w http.ResponseWriter, _ *http.Request, id uint64, _ func() (int, []byte)) {
			w.WriteHeader(http.StatusInternalServerError)
			_ = json.NewEncoder(w).Encode(map[string]any{"result": nil, "error": map[string]any{"code": -28, "message": "Loading block index…"}, "id": id})
		}},
	}
}

// spoiler stands between an engine and a node, and spoils one call.
type spoiler struct {
	t      *testing.T
	target string

	mu     sync.Mutex
	method string
	how    *spoil
	struck bool
}

// arm spoils the next call of a method.
func (s *spoiler) arm(method string, how spoil) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.method, s.how, s.struck = method, &how, false
}

// strikes reports whether the armed call has been made, and whether this is it.
func (s *spoiler) strikes(method string) *spoil {
	s.mu.Lock()
	defer s.mu.Unlock()
	how := s.how
	if how == nil || method != s.method {
		return nil
	}
	s.how, s.struck = nil, true
	return how
}

func (s *spoiler) hasStruck() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.struck
}

func (s *spoiler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var call struct {
		ID     uint64 `json:"id"`
		Method string `json:"method"`
	}
	if err == nil {
		err = json.Unmarshal(body, &call)
	}
	if err != nil {
		s.t.Errorf("call: %v", err)
		return
	}
	ask := func() (status int, answer []byte) {
		req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.target, bytes.NewReader(body))
		if err == nil {
			req.Header = r.Header.Clone()
			var resp *http.Response
			if resp, err = http.DefaultClient.Do(req); err == nil {
				defer resp.Body.Close()
				answer, err = io.ReadAll(resp.Body)
				status = resp.StatusCode
			}
		}
		if err != nil {
			s.t.Errorf("pass on %s: %v", call.Method, err)
		}
		return status, answer
	}
	if how := s.strikes(call.Method); how != nil {
		how.do(w, r, call.ID, ask)
		return
	}
	status, answer := ask()
	w.WriteHeader(status)
	_, _ = w.Write(answer)
}

// Each call that the engine makes of a real node fails once in each way: whether
// the node has heard it or not, the engine goes on, and nothing is lost, paid twice
// or taken for what it isn't.
func TestRealAnswers(t *testing.T) { forEachNode(t, realAnswers) }

func realAnswers(t *testing.T, kind nodetest.Kind) {
	t.Helper()
	w := newRealWorld(t, kind, calpe.Regtest)
	s := &spoiler{t: t, target: w.node.URL}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	hasty, patient := w.node.Through(server.URL, 700*time.Millisecond), w.node.Through(server.URL, time.Minute)
	estimate := "estimatesmartfee"
	if kind == nodetest.Btcd {
		estimate = "estimatefee"
	}
	for _, how := range spoils() {
		t.Run(how.name, func(t *testing.T) {
			w.t, w.through = t, patient
			if how.hasty {
				w.through = hasty
			}
			w.restart()
			for _, method := range []string{
				"getblockcount", "getblockhash", "getblockchaininfo", "getblockheader", "getblock", "gettxout", estimate, "sendrawtransaction",
			} {
				w.spoiled(s, method, how)
			}
			w.through = patient
			w.restart()
			w.settle()
		})
	}
}

// spoiled lets the engine live until the call was spoiled, and recover.
func (w *realWorld) spoiled(s *spoiler, method string, how spoil) {
	w.t.Helper()
	s.arm(method, how)
	for turn := range 40 {
		before := s.hasStruck()
		err := w.engine.Step(w.t.Context(), 1)
		switch {
		case errors.Is(err, ledger.ErrConflict) || errors.Is(err, calpe.ErrLostLeadership):
			w.t.Fatalf("%s: %v", method, err)
		case !before && s.hasStruck() && err == nil && !how.fine:
			w.t.Fatalf("%s: nobody noticed", method)
		case how.fine && err != nil:
			w.t.Fatalf("%s: %v", method, err)
		case s.hasStruck() && err == nil:
			return
		}
		w.log.grow(1)
		w.now = w.now.Add(interval)
		if turn%3 == 2 {
			w.reorganise(1)
		} else {
			w.node.Generate(1)
		}
	}
	w.t.Fatalf("%s: no step succeeded after it (struck: %v)", method, s.hasStruck())
}

// The node behind the address becomes one of another network: nothing is taken
// from it, and nothing sent to it.
func TestRealOtherNetwork(t *testing.T) {
	w := newRealWorld(t, nodetest.Btcd, calpe.Regtest)
	w.log.grow(1)
	w.step()
	before, err := w.store.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := nodetest.Start(t, nodetest.Btcd, calpe.Simnet)
	w.through = elsewhere
	w.restart()
	for range 2 {
		w.now = w.now.Add(interval)
		if err := w.engine.Step(t.Context(), 1); !errors.Is(err, bitcoin.ErrWrongNetwork) {
			t.Fatalf("step with a node of another network: %v", err)
		}
	}
	after, err := w.store.Snapshot(t.Context())
	if err != nil || after.Tip != before.Tip || len(after.Attempts) != 1 || len(elsewhere.Mempool()) != 0 {
		t.Fatalf("state: %+v, %v", after, err)
	}
	w.through = nil
	w.restart()
	w.settle()
}
