package bitcoin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/bitcoin"
	"github.com/calpe/calpe/anchor/ledger"
)

const secret = "correct-horse-battery"

type rpcRequest struct {
	JSONRPC string `json:"jsonrpc"`
	ID      uint64 `json:"id"`
	Method  string `json:"method"`
	Params  []any  `json:"params"`
}

// serve runs a node of one function. It fails the test on a request that btcd
// or Bitcoin Core would not understand.
func serve(t *testing.T, answer func(w http.ResponseWriter, r *http.Request, req rpcRequest)) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var req rpcRequest
		if err == nil {
			err = json.Unmarshal(body, &req)
		}
		if err != nil || r.Method != http.MethodPost || req.JSONRPC != "1.0" || req.Params == nil || req.ID == 0 {
			t.Errorf("request %s %q: %v", r.Method, body, err)
		}
		answer(w, r, req)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func client(t *testing.T, cfg bitcoin.Config) *bitcoin.Client {
	t.Helper()
	if cfg.CookieFile == "" && cfg.User == "" {
		cfg.User, cfg.Password = "calpe", secret
	}
	c, err := bitcoin.New(cfg)
	if err != nil {
		t.Fatalf("make client: %v", err)
	}
	t.Cleanup(c.Close)
	return c
}

// says answers every call with one result or error, as btcd writes it.
func says(w http.ResponseWriter, req rpcRequest, result, failure string) {
	fmt.Fprintf(w, `{"jsonrpc":"1.0","result":%s,"error":%s,"id":%d}`, result, failure, req.ID)
}

func TestAnswersThatAreNone(t *testing.T) {
	rows := map[string]struct {
		answer func(w http.ResponseWriter, req rpcRequest)
		want   error
	}{
		"warming up": {func(w http.ResponseWriter, req rpcRequest) {
			says(w, req, "null", `{"code":-28,"message":"Loading block index…"}`)
		}, bitcoin.ErrWarmingUp},
		"garbage": {func(w http.ResponseWriter, _ rpcRequest) { fmt.Fprint(w, "\x00\xff<html>") }, bitcoin.ErrUnavailable},
		"nothing": {func(http.ResponseWriter, rpcRequest) {}, bitcoin.ErrUnavailable},
		"half of it": {func(w http.ResponseWriter, req rpcRequest) {
			fmt.Fprintf(w, `{"result":12,"error":null,"id":%d`, req.ID)
		}, bitcoin.ErrUnavailable},
		"cut off": {func(w http.ResponseWriter, _ rpcRequest) {
			w.Header().Set("Content-Length", "500")
			fmt.Fprint(w, `{"result":1`)
		}, bitcoin.ErrUnavailable},
		"another id": {func(w http.ResponseWriter, _ rpcRequest) { fmt.Fprint(w, `{"result":12,"error":null,"id":999999}`) }, bitcoin.ErrUnavailable},
		"no id":      {func(w http.ResponseWriter, _ rpcRequest) { fmt.Fprint(w, `{"result":12,"error":null}`) }, bitcoin.ErrUnavailable},
		"no result":  {func(w http.ResponseWriter, req rpcRequest) { fmt.Fprintf(w, `{"error":null,"id":%d}`, req.ID) }, bitcoin.ErrUnavailable},
		"two results": {func(w http.ResponseWriter, req rpcRequest) {
			fmt.Fprintf(w, `{"result":1,"result":2,"error":null,"id":%d}`, req.ID)
		}, bitcoin.ErrUnavailable},
		"another type":    {func(w http.ResponseWriter, req rpcRequest) { says(w, req, `"twelve"`, "null") }, bitcoin.ErrUnavailable},
		"negative height": {func(w http.ResponseWriter, req rpcRequest) { says(w, req, `-1`, "null") }, bitcoin.ErrUnavailable},
		"busy": {func(w http.ResponseWriter, _ rpcRequest) {
			http.Error(w, "Work queue depth exceeded", http.StatusServiceUnavailable)
		}, bitcoin.ErrUnavailable},
		"too long":  {func(w http.ResponseWriter, _ rpcRequest) { fmt.Fprint(w, strings.Repeat(" ", 2<<20)) }, bitcoin.ErrTooLarge},
		"refused":   {func(w http.ResponseWriter, _ rpcRequest) { w.WriteHeader(http.StatusUnauthorized) }, bitcoin.ErrUnauthorized},
		"forbidden": {func(w http.ResponseWriter, _ rpcRequest) { w.WriteHeader(http.StatusForbidden) }, bitcoin.ErrUnauthorized},
		"moved": {func(w http.ResponseWriter, _ rpcRequest) {
			w.Header().Set("Location", "http://127.0.0.1:1/")
			w.WriteHeader(http.StatusTemporaryRedirect)
		}, bitcoin.ErrUnavailable},
	}
	for name, row := range rows {
		t.Run(name, func(t *testing.T) {
			calls := 0
			url := serve(t, func(w http.ResponseWriter, r *http.Request, req rpcRequest) {
				calls++
				if _, password, _ := r.BasicAuth(); password != secret {
					t.Errorf("password %q", password)
				}
				row.answer(w, req)
			})
			c := client(t, bitcoin.Config{URL: url})
			_, err := c.Height(t.Context())
			if !errors.Is(err, row.want) {
				t.Errorf("error %v, want %v", err, row.want)
			}
			if strings.Contains(err.Error(), secret) {
				t.Errorf("the password is in the error %v", err)
			}
			if calls != 1 {
				t.Errorf("%d calls, want 1: nothing is tried again", calls)
			}
		})
	}
}

// A block may be as large as configured, and no larger.
func TestMaxResponse(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, _ *http.Request, req rpcRequest) {
		says(w, req, `"`+strings.Repeat("00", 5000)+`"`, "null")
	})
	c := client(t, bitcoin.Config{URL: url, MaxResponse: 9000})
	if _, err := c.Block(t.Context(), calpe.BlockHash{}); !errors.Is(err, bitcoin.ErrTooLarge) {
		t.Errorf("a long block: %v", err)
	}
	c = client(t, bitcoin.Config{URL: url, MaxResponse: 20_000})
	if _, err := c.Block(t.Context(), calpe.BlockHash{}); !errors.Is(err, bitcoin.ErrInvalidBlock) {
		t.Errorf("a block of zeros: %v", err)
	}
}

func TestRefusalIsTyped(t *testing.T) {
	for _, status := range []int{http.StatusOK, http.StatusInternalServerError} { // btcd, Bitcoin Core
		url := serve(t, func(w http.ResponseWriter, _ *http.Request, req rpcRequest) {
			w.WriteHeader(status)
			says(w, req, "null", `{"code":-8,"message":"Block height\nout of range"}`)
		})
		_, err := client(t, bitcoin.Config{URL: url}).BlockHash(t.Context(), 7)
		refusal, ok := errors.AsType[*bitcoin.RPCError](err)
		if !ok || refusal.Code != -8 || strings.Contains(err.Error(), "\n") {
			t.Errorf("status %d: %v", status, err)
		}
	}
}

// A node that takes the call and never answers: the time-out, or the caller, ends it.
func TestNoAnswer(t *testing.T) {
	stop := make(chan struct{})
	url := serve(t, func(_ http.ResponseWriter, r *http.Request, _ rpcRequest) {
		select {
		case <-stop:
		case <-r.Context().Done():
		}
	})
	t.Cleanup(func() { close(stop) })
	if _, err := client(t, bitcoin.Config{URL: url, Timeout: 20 * time.Millisecond}).Send(t.Context(), []byte{1}); !errors.Is(err, bitcoin.ErrUnavailable) {
		t.Errorf("time-out: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := client(t, bitcoin.Config{URL: url}).Height(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// A restarted Core has another cookie: it is read again, once.
func TestCookie(t *testing.T) {
	file := filepath.Join(t.TempDir(), ".cookie")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	calls, accepted := 0, "new"
	url := serve(t, func(w http.ResponseWriter, r *http.Request, req rpcRequest) {
		calls++
		if _, password, _ := r.BasicAuth(); password != accepted {
			write("__cookie__:new\n") // the node writes it while it starts
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		says(w, req, "5", "null")
	})
	c := client(t, bitcoin.Config{URL: url, CookieFile: file})
	if _, err := c.Height(t.Context()); !errors.Is(err, bitcoin.ErrUnavailable) {
		t.Errorf("no cookie file: %v", err)
	}
	write("no colon")
	if _, err := c.Height(t.Context()); !errors.Is(err, bitcoin.ErrUnavailable) || strings.Contains(err.Error(), "no colon") {
		t.Errorf("a bad cookie file: %v", err)
	}
	write("__cookie__:old")
	if h, err := c.Height(t.Context()); err != nil || h != 5 || calls != 2 {
		t.Errorf("height %d after %d calls: %v", h, calls, err)
	}
	accepted, calls = "never", 0
	if _, err := c.Height(t.Context()); !errors.Is(err, bitcoin.ErrUnauthorized) || calls != 2 || strings.Contains(err.Error(), "new") {
		t.Errorf("always refused: %v after %d calls", err, calls)
	}
}

func TestNew(t *testing.T) {
	notPEM := filepath.Join(t.TempDir(), "rpc.cert")
	if err := os.WriteFile(notPEM, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]bitcoin.Config{
		"no URL":            {},
		"another scheme":    {URL: "ws://127.0.0.1:8334"},
		"no host":           {URL: "http://"},
		"password in it":    {URL: "http://calpe:" + secret + "@127.0.0.1:8332"},
		"unreadable":        {URL: "http://calpe:" + secret + "@127.0.0.1:83 32"},
		"cookie and user":   {URL: "http://127.0.0.1:8332", User: "u", CookieFile: "c"},
		"no certificate":    {URL: "https://127.0.0.1:8334", CAFile: notPEM + "x"},
		"not a certificate": {URL: "https://127.0.0.1:8334", CAFile: notPEM},
	} {
		_, err := bitcoin.New(cfg)
		if err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// An https node is checked against its own certificate, and nothing else.
func TestTLS(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var req rpcRequest
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
			t.Errorf("request: %v", err)
		}
		says(w, req, "77", "null")
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // it would say that the second client refuses it
	s.StartTLS()
	t.Cleanup(s.Close)
	file := filepath.Join(t.TempDir(), "rpc.cert")
	if err := os.WriteFile(file, pemOf(s.Certificate().Raw), 0o600); err != nil {
		t.Fatal(err)
	}
	if h, err := client(t, bitcoin.Config{URL: s.URL, CAFile: file}).Height(t.Context()); err != nil || h != 77 {
		t.Errorf("with its certificate: %d, %v", h, err)
	}
	if _, err := client(t, bitcoin.Config{URL: s.URL}).Height(t.Context()); !errors.Is(err, bitcoin.ErrUnavailable) {
		t.Errorf("with an unknown certificate: %v", err)
	}
}

func TestClassify(t *testing.T) {
	for _, row := range []struct {
		code int
		text string
		want ledger.AnswerKind
	}{
		{-27, "Transaction outputs already in utxo set", ledger.AlreadyMined},
		{-27, "transaction already exists in blockchain", ledger.AlreadyMined},
		{-27, "words of a later version", ledger.AlreadyMined},
		{-26, "txn-already-known", ledger.AlreadyMined},
		{-26, "txn-already-in-mempool", ledger.AlreadyKnown},
		{-26, "already have transaction in mempool 00aa", ledger.AlreadyKnown},
		{-26, "insufficient fee, rejecting replacement 00aa; new feerate 0.1 <= old feerate 0.2", ledger.FeeTooLow},
		{-26, "insufficient absolute fee: has 1, needs 2", ledger.FeeTooLow},
		{-26, "insufficient fee rate: has 1, needs 2", ledger.FeeTooLow},
		{-26, "min relay fee not met, 15 < 16", ledger.FeeTooLow},
		{-26, "mempool min fee not met, 15 < 16", ledger.FeeTooLow},
		{-26, "does not improve feerate diagram", ledger.FeeTooLow},
		{-26, "transaction 00aa has insufficient priority (1 <= 2)", ledger.FeeTooLow},
		{-25, "bad-txns-inputs-missingorspent", ledger.InputsMissing},
		{0, "missing-inputs", ledger.InputsMissing},
		{-25, "orphan transaction 00aa references outputs of unknown or fully-spent transaction 00bb", ledger.InputsMissing},
		{-26, "txn-mempool-conflict", ledger.Conflict},
		{-26, "output 00aa:0 already spent in mempool", ledger.Conflict},
		{-25, "Fee exceeds maximum configured by user (e.g. -maxtxfee, maxfeerate)", ledger.OperatorCap},
		{0, "max-fee-exceeded", ledger.OperatorCap},
		{-26, "too-large-cluster", ledger.Later},
		{-28, "Loading block index…", ledger.Later},
		{-26, "datacarrier", ledger.Policy},
		{-26, "scriptpubkey", ledger.Policy},
		{-26, "dust", ledger.Policy},
		{-26, "non-final", ledger.Policy},
		{-26, "mempool-script-verify-flag-failed (Signature must be zero)", ledger.Policy},
		{-25, "Unspendable output exceeds maximum configured by user (maxburnamount)", ledger.Policy},
		{-22, "TX decode failed", ledger.Policy},
	} {
		if got := bitcoin.Classify(row.code, row.text); got.Kind != row.want || got.Text != row.text {
			t.Errorf("%d %q is %q, want %q", row.code, row.text, got.Kind, row.want)
		}
	}
	if got := bitcoin.Classify(-26, strings.Repeat("é", 1000)); len(got.Text) > 400 {
		t.Errorf("a long text stays long: %d bytes", len(got.Text))
	}
}

func TestSend(t *testing.T) {
	txid := `"` + strings.Repeat("0a", 32) + `"`
	for name, row := range map[string]struct {
		result, failure string
		want            ledger.Answer
		err             error
	}{
		"accepted":   {txid, "null", ledger.Answer{Kind: ledger.Accepted}, nil},
		"refused":    {"null", `{"code":-26,"message":"dust"}`, ledger.Answer{Kind: ledger.Policy, Text: "dust"}, nil},
		"warming up": {"null", `{"code":-28,"message":"Verifying blocks…"}`, ledger.Answer{}, bitcoin.ErrWarmingUp},
		"no txid":    {"17", "null", ledger.Answer{}, bitcoin.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			url := serve(t, func(w http.ResponseWriter, _ *http.Request, req rpcRequest) {
				if diff := cmp.Diff(rpcRequest{JSONRPC: "1.0", ID: 1, Method: "sendrawtransaction", Params: []any{"c0ffee"}}, req); diff != "" {
					t.Error(diff)
				}
				says(w, req, row.result, row.failure)
			})
			got, err := client(t, bitcoin.Config{URL: url}).Send(t.Context(), []byte{0xc0, 0xff, 0xee})
			if got != row.want || !errors.Is(err, row.err) {
				t.Errorf("%+v, %v; want %+v, %v", got, err, row.want, row.err)
			}
		})
	}
}

func TestFeeRate(t *testing.T) {
	const absent = `{"code":-32601,"message":"Method not found"}`
	for name, row := range map[string]struct {
		smart, smartErr, plain, plainErr string
		want                             ledger.FeeRate
		ok                               bool
		err                              error
	}{
		"core":              {smart: `{"feerate":0.00012345,"blocks":6}`, want: 12345, ok: true},
		"core, no data":     {smart: `{"errors":["Insufficient data or no feerate found"],"blocks":6}`},
		"core, negative":    {smart: `{"feerate":-1}`},
		"core, absurd":      {smart: `{"feerate":1e300}`},
		"core, blocks only": {smartErr: `{"code":-32603,"message":"Fee estimation disabled"}`},
		"core, warming up":  {smartErr: `{"code":-28,"message":"…"}`, err: bitcoin.ErrWarmingUp},
		"btcd":              {smartErr: absent, plain: "0.00001", want: 1000, ok: true},
		"btcd, no data":     {smartErr: absent, plain: "0"},
		"btcd, too young":   {smartErr: absent, plainErr: `{"code":-32600,"message":"Invalid request: malformed"}`},
		"neither":           {smartErr: absent, plainErr: absent},
	} {
		t.Run(name, func(t *testing.T) {
			or := func(s string) string {
				if s == "" {
					return "null"
				}
				return s
			}
			url := serve(t, func(w http.ResponseWriter, _ *http.Request, req rpcRequest) {
				if req.Method == "estimatesmartfee" {
					says(w, req, or(row.smart), or(row.smartErr))
					return
				}
				says(w, req, or(row.plain), or(row.plainErr))
			})
			got, ok, err := client(t, bitcoin.Config{URL: url}).FeeRate(t.Context(), 6)
			if got != row.want || ok != row.ok || !errors.Is(err, row.err) {
				t.Errorf("%v, %v, %v; want %v, %v, %v", got, ok, err, row.want, row.ok, row.err)
			}
		})
	}
}

func TestCheckNetwork(t *testing.T) {
	const challenge = "512103ad5e0edad18cb1f0fc0d28a3d4f1f3e445640337489abb10404f2d1e086be430210359ef5021964fe22d6f8e05b2463c9540ce96883fe3b278760f048f5189f2e6c452ae"
	genesis := map[calpe.Network]string{
		calpe.Mainnet:  "000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f",
		calpe.Testnet3: "000000000933ea01ad0ee984209779baaec3ced90fa3f408719526f8d77f4943",
		calpe.Testnet4: "00000000da84f2bafbbc53dee25a72ae507ff4914b867c565be350b0da8bf043",
		calpe.Signet:   "00000008819873e925422c1ff0f99f7cc9bbb232af63a077a480a3633bee1ef6",
		calpe.Regtest:  "0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206",
	}
	for _, row := range []struct {
		network       calpe.Network
		genesis, info string
		err           error
	}{
		{calpe.Mainnet, genesis[calpe.Mainnet], `{"chain":"main"}`, nil},
		{calpe.Mainnet, genesis[calpe.Mainnet], `{"chain":"mainnet"}`, nil},
		{calpe.Testnet3, genesis[calpe.Testnet3], `{"chain":"test"}`, nil},
		{calpe.Testnet4, genesis[calpe.Testnet4], `{"chain":"testnet4"}`, nil},
		{calpe.Regtest, genesis[calpe.Regtest], `{"chain":"regtest"}`, nil},
		{calpe.Signet, genesis[calpe.Signet], `{"chain":"signet"}`, nil},                  // Bitcoin Core before 28 doesn't state the challenge
		{calpe.Signet, genesis[calpe.Signet], `{"chain":"signet"} magic 1087308554`, nil}, // and btcd states what follows from it
		{calpe.Signet, genesis[calpe.Signet], `{"chain":"signet"} magic 1087308555`, bitcoin.ErrWrongNetwork},
		{calpe.Signet, genesis[calpe.Signet], `{"chain":"signet"} magic "x"`, bitcoin.ErrUnavailable},
		{calpe.Signet, genesis[calpe.Signet], `{"chain":"signet","signet_challenge":"` + challenge + `"}`, nil},
		{calpe.Signet, genesis[calpe.Signet], `{"chain":"signet","signet_challenge":"51"}`, bitcoin.ErrWrongNetwork},
		{calpe.Mainnet, genesis[calpe.Regtest], `{"chain":"main"}`, bitcoin.ErrWrongNetwork},
		{calpe.Mainnet, genesis[calpe.Mainnet], `{"chain":"test"}`, bitcoin.ErrWrongNetwork},
		{calpe.Mainnet, genesis[calpe.Mainnet], `{}`, bitcoin.ErrWrongNetwork},
	} {
		url := serve(t, func(w http.ResponseWriter, _ *http.Request, req rpcRequest) {
			switch info, magic, _ := strings.Cut(row.info, " magic "); {
			case req.Method == "getblockhash":
				says(w, req, `"`+row.genesis+`"`, "null")
			case req.Method == "getcurrentnet" && magic == "":
				says(w, req, "null", `{"code":-32601,"message":"Method not found"}`)
			case req.Method == "getcurrentnet":
				says(w, req, magic, "null")
			default:
				says(w, req, info, "null")
			}
		})
		if err := client(t, bitcoin.Config{URL: url}).CheckNetwork(t.Context(), row.network); !errors.Is(err, row.err) {
			t.Errorf("%s, %s: %v, want %v", row.network, row.info, err, row.err)
		}
	}
	if err := client(t, bitcoin.Config{URL: "http://127.0.0.1:1"}).CheckNetwork(t.Context(), "moon"); err == nil {
		t.Error("an unknown network is no error")
	}
}

func TestTxOut(t *testing.T) {
	hash := strings.Repeat("ab", 32)
	const form = `{"bestblock":"%s","confirmations":%s,"value":%s,"scriptPubKey":{"hex":"%s","asm":""},"coinbase":false}`
	for name, row := range map[string]struct {
		result string
		value  int64
		ok     bool
		err    error
	}{
		"there":          {fmt.Sprintf(form, hash, "3", "0.00054321", "0014aa"), 54_321, true, nil},
		"rounding":       {fmt.Sprintf(form, hash, "3", "20999999.97690000", "0014aa"), 2_099_999_997_690_000, true, nil},
		"not there":      {"null", 0, false, nil},
		"unconfirmed":    {fmt.Sprintf(form, hash, "0", "1", "0014aa"), 0, false, bitcoin.ErrUnavailable},
		"negative value": {fmt.Sprintf(form, hash, "1", "-1", "0014aa"), 0, false, bitcoin.ErrUnavailable},
		"too much money": {fmt.Sprintf(form, hash, "1", "21000001", "0014aa"), 0, false, bitcoin.ErrUnavailable},
		"bad script":     {fmt.Sprintf(form, hash, "1", "1", "0014a"), 0, false, bitcoin.ErrUnavailable},
		"bad hash":       {fmt.Sprintf(form, "12", "1", "1", "00"), 0, false, bitcoin.ErrUnavailable},
	} {
		url := serve(t, func(w http.ResponseWriter, _ *http.Request, req rpcRequest) {
			if mempool := req.Params[2]; mempool != false {
				t.Errorf("asked for the mempool: %v", mempool)
			}
			says(w, req, row.result, "null")
		})
		out, ok, err := client(t, bitcoin.Config{URL: url}).TxOut(t.Context(), calpe.Outpoint{Vout: 1})
		if out.Value != row.value || ok != row.ok || !errors.Is(err, row.err) {
			t.Errorf("%s: %+v, %v, %v", name, out, ok, err)
		}
	}
}

// The hook is told of each call, and of none of its arguments.
func TestObserve(t *testing.T) {
	type call struct {
		method string
		err    error
	}
	var told []call
	status := http.StatusOK
	url := serve(t, func(w http.ResponseWriter, _ *http.Request, req rpcRequest) {
		w.WriteHeader(status)
		if req.Method == "getblockhash" {
			fmt.Fprintf(w, `{"id":%d,"error":{"code":-8,"message":"Block height out of range"},"result":null}`, req.ID)
			return
		}
		fmt.Fprintf(w, `{"id":%d,"error":null,"result":7}`, req.ID)
	})
	c := client(t, bitcoin.Config{URL: url, Observe: func(method string, took time.Duration, err error) {
		if took < 0 {
			t.Errorf("%s took %v", method, took)
		}
		told = append(told, call{method, err})
	}})
	if _, err := c.Height(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, _ = c.BlockHash(t.Context(), 9)
	status = http.StatusUnauthorized
	_, _ = c.Height(t.Context())
	if len(told) != 3 || told[0].method != "getblockcount" || told[0].err != nil || told[1].method != "getblockhash" || !errors.Is(told[2].err, bitcoin.ErrUnauthorized) {
		t.Fatalf("told was %v", told)
	}
	if _, ok := errors.AsType[*bitcoin.RPCError](told[1].err); !ok {
		t.Errorf("a refusal was told as %v", told[1].err)
	}
}
