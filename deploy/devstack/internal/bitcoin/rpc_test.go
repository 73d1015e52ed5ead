package bitcoin

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/btcsuite/btcd/wire/v2"
)

// node answers every call with a status and a body.
func node(t *testing.T, status int, body string) *Client {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		io.WriteString(w, body)
	}))
	t.Cleanup(srv.Close)
	return newClient(t, srv)
}

func newClient(t *testing.T, srv *httptest.Server) *Client {
	t.Helper()
	c, err := NewClient(strings.Replace(srv.URL, "http://", "http://u:sesame@", 1))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCallRequest(t *testing.T) {
	var got struct {
		JSONRPC string
		Method  string
		Params  []any
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != "u" || p != "sesame" {
			t.Errorf("user %q, password %q", u, p)
		}
		json.NewDecoder(r.Body).Decode(&got)
		io.WriteString(w, `{"result":"abc","error":null,"id":1}`)
	}))
	defer srv.Close()
	hash, err := newClient(t, srv).BlockHash(t.Context(), 7)
	if err != nil || hash != "abc" || got.JSONRPC != "1.0" || got.Method != "getblockhash" || len(got.Params) != 1 || got.Params[0] != 7.0 {
		t.Errorf("hash %q, %v; request %+v", hash, err, got)
	}
}

func TestCallBadAnswers(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		body   string
		want   string
	}{
		{"refusal", 500, `{"result":null,"error":{"code":-8,"message":"out of range"},"id":1}`, "out of range (-8)"},
		{"wrong password", 401, "", "refuses user and password"},
		{"no JSON", 200, "<html>", "not JSON-RPC"},
		{"cut short", 200, `{"result":"ab`, "not JSON-RPC"},
		{"empty", 200, "", "not JSON-RPC"},
		{"other type", 200, `{"result":{"a":1},"error":null}`, "parse result"},
		{"too long", 200, `"` + strings.Repeat("x", maxAnswer) + `"`, "longer than"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := node(t, tt.status, tt.body).BlockHash(t.Context(), 0)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "getblockhash") {
				t.Errorf("err = %v, want the method and %q", err, tt.want)
			}
			if refused := (*RPCError)(nil); errors.As(err, &refused) != (tt.name == "refusal") {
				t.Errorf("RPCError: %v", err)
			}
		})
	}
}

func TestBadBlocks(t *testing.T) {
	for _, body := range []string{`{"result":"zz"}`, `{"result":"00"}`, `{"result":""}`, `{"result":7}`} {
		if b, err := node(t, 200, body).Block(t.Context(), "h"); err == nil {
			t.Errorf("%s: block %v", body, b)
		}
	}
}

func TestMineStopsWhenNothingIsMined(t *testing.T) {
	if _, err := node(t, 200, `{"result":[]}`).Mine(t.Context(), 3); err == nil || !strings.Contains(err.Error(), "no block") {
		t.Errorf("err = %v", err)
	}
}

func TestSendChecksTheAnswer(t *testing.T) {
	if _, err := node(t, 200, `{"result":"ab"}`).Send(t.Context(), wire.NewMsgTx(2)); err == nil || !strings.Contains(err.Error(), "for ab") {
		t.Errorf("err = %v, want that the node took another transaction", err)
	}
}

func TestCallEndsWithContext(t *testing.T) {
	stop := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-stop:
		case <-r.Context().Done():
		}
	}))
	defer srv.Close()
	defer close(stop)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := newClient(t, srv).Call(ctx, nil, "getblockcount"); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v", err)
	}
}

func TestNewClient(t *testing.T) {
	for _, raw := range []string{"", "http://h:1", "http://u@h:1", "https://u:sesame@h:1", "u:sesame@h:1", "http://u:sesame@", "http://u:sesame@h:port\x00"} {
		if _, err := NewClient(raw); err == nil || strings.Contains(err.Error(), "sesame") {
			t.Errorf("%q: %v; want an error that doesn't show the password", raw, err)
		}
	}
}

// FuzzDecode reads an answer as the client does: it must never panic, and never
// take a refusal for a result.
func FuzzDecode(f *testing.F) {
	f.Add(200, `{"result":"abc","error":null}`)
	f.Add(500, `{"result":null,"error":{"code":-5,"message":"no"}}`)
	f.Add(401, ``)
	f.Fuzz(func(t *testing.T, status int, body string) {
		var result string
		res := &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(body))}
		err := decode(res, &result)
		if err == nil && status == http.StatusUnauthorized {
			t.Error("401 is a success")
		}
		if err != nil && err.Error() == "" {
			t.Error("an error without words")
		}
	})
}
