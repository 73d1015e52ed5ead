package bitcoin

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// What a call can fail with, beside an [RPCError]. All are for errors.Is.
var (
	// ErrUnavailable: no answer, or none that is one. A transaction that was
	// being sent may have been taken.
	ErrUnavailable = errors.New("bitcoin node is not available")
	// ErrWarmingUp: the node is starting (code -28) and does nothing yet.
	ErrWarmingUp = errors.New("bitcoin node is warming up")
	// ErrUnauthorized: the node refuses the user, the password or the cookie.
	ErrUnauthorized = errors.New("bitcoin node refuses the credentials")
	// ErrTooLarge: the answer is larger than what may be read.
	ErrTooLarge = errors.New("answer of the bitcoin node is too large")
	// ErrWrongNetwork: the node is on another network than the deployment.
	ErrWrongNetwork = errors.New("bitcoin node is on another network")
	// ErrInvalidBlock: the node sent a block or header that isn't what was asked
	// for, or that contradicts itself.
	ErrInvalidBlock = errors.New("bitcoin node sent an invalid block")
)

// RPCError is a refusal by the node. It holds what the node said, never what it
// was asked with.
type RPCError struct {
	Method  string
	Code    int
	Message string
}

// Error names the method, the code and the node's words, cut to 300 bytes.
func (e *RPCError) Error() string {
	return fmt.Sprintf("%s: code %d: %s", e.Method, e.Code, clip(e.Message))
}

// Config says how to reach a node. Either User and Password or CookieFile.
type Config struct {
	URL        string // http://host:port or https://host:port, without user and password
	User       string
	Password   string
	CookieFile string // Bitcoin Core writes a new one at each start; it is read again when it is refused
	CAFile     string // PEM of the certificate that an https node is checked against; btcd's rpc.cert
	// Timeout of one call, from dialling to the last byte. Default 30 s.
	Timeout time.Duration
	// MaxResponse is the largest answer in bytes. Default 9 MiB: a block of 4 MB
	// in hexadecimal.
	MaxResponse int64
	// Observe, if set, is told of each call when it is over: its method, how long it
	// took, and its error. It must not block.
	Observe func(method string, took time.Duration, err error)
	Logger  *slog.Logger
}

// Client calls one node. It is safe for concurrent use.
type Client struct {
	cfg      Config
	endpoint string
	http     *http.Client
	lastID   atomic.Uint64
}

// New checks the configuration and makes a client. It doesn't contact the node.
// No error holds a secret.
func New(cfg Config) (*Client, error) {
	u, err := url.Parse(cfg.URL)
	switch {
	case err != nil:
		return nil, errors.New("bitcoin node URL can't be read") // the cause quotes the URL, which may hold a password
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return nil, errors.New("bitcoin node URL is not http://host:port or https://host:port")
	case u.User != nil:
		return nil, errors.New("bitcoin node URL has a user in it: give user and password, or a cookie file, as settings of their own")
	case cfg.CookieFile != "" && (cfg.User != "" || cfg.Password != ""):
		return nil, errors.New("bitcoin node has a cookie file and a user: give one of them")
	}
	transport, err := newTransport(cfg.CAFile)
	if err != nil {
		return nil, err
	}
	cfg.Timeout = cmp.Or(cfg.Timeout, 30*time.Second)
	cfg.MaxResponse = cmp.Or(cfg.MaxResponse, 9<<20)
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	return &Client{cfg: cfg, endpoint: u.String(), http: &http.Client{
		Transport: transport,
		// A redirect would carry the credentials to somebody else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// newTransport has no proxy from the environment: calls to one's own node, and
// the password in them, go there and nowhere else.
func newTransport(caFile string) (*http.Transport, error) {
	t := &http.Transport{MaxIdleConns: 8, MaxIdleConnsPerHost: 8, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 16 << 10}
	if caFile == "" {
		return t, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("read certificate of the bitcoin node: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("certificate file %s of the bitcoin node holds no PEM certificate", caFile)
	}
	t.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	return t, nil
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

type request struct {
	// btcd demands "1.0" here; Bitcoin Core answers it in the old form.
	JSONRPC string `json:"jsonrpc"`
	ID      uint64 `json:"id"`
	Method  string `json:"method"`
	Params  []any  `json:"params"`
}

// smallAnswer bounds every answer but a block's.
const smallAnswer = 1 << 20

// call makes one call and decodes its result into result. The limit is that of
// the whole answer in bytes.
func (c *Client) call(ctx context.Context, limit int64, result any, method string, params ...any) error {
	start := time.Now()
	err := c.exchange(ctx, limit, result, method, params...)
	if c.cfg.Observe != nil {
		c.cfg.Observe(method, time.Since(start), err)
	}
	return err
}

func (c *Client) exchange(ctx context.Context, limit int64, result any, method string, params ...any) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	if params == nil {
		params = []any{}
	}
	req := request{JSONRPC: "1.0", ID: c.lastID.Add(1), Method: method, Params: params}
	body, err := json.Marshal(req)
	if err != nil {
		return fmt.Errorf("encode call of %s: %w", method, err)
	}
	status, answer, err := c.post(ctx, body, limit)
	if err == nil && status == http.StatusUnauthorized && c.cfg.CookieFile != "" {
		// The node was restarted and has another cookie. Nothing was done by the
		// call that it refused, so this isn't a retry of an unknown outcome.
		c.cfg.Logger.DebugContext(ctx, "bitcoin node refused the cookie, reading it again")
		status, answer, err = c.post(ctx, body, limit)
	}
	if err != nil {
		return fmt.Errorf("call %s: %w", method, err)
	}
	if status == http.StatusUnauthorized || status == http.StatusForbidden {
		return fmt.Errorf("call %s: %w", method, ErrUnauthorized)
	}
	raw, err := parseAnswer(answer, status, req.ID, method)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, result); err != nil {
		return fmt.Errorf("%w: result of %s is not of the expected form", ErrUnavailable, method)
	}
	return nil
}

func (c *Client) post(ctx context.Context, body []byte, limit int64) (status int, answer []byte, err error) {
	user, password, err := c.credentials()
	if err != nil {
		return 0, nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.endpoint, bytes.NewReader(body))
	if err != nil {
		return 0, nil, fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	if user != "" || password != "" {
		req.SetBasicAuth(user, password)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return 0, nil, fmt.Errorf("%w: read answer: %w", ErrUnavailable, err)
	}
	if int64(len(answer)) > limit {
		return 0, nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, limit)
	}
	return resp.StatusCode, answer, nil
}

// credentials reads the cookie at each call: it is a small file, and the one
// from before a restart of the node is worthless.
func (c *Client) credentials() (user, password string, err error) {
	if c.cfg.CookieFile == "" {
		return c.cfg.User, c.cfg.Password, nil
	}
	f, err := os.Open(c.cfg.CookieFile)
	if err != nil {
		return "", "", fmt.Errorf("%w: read cookie: %w", ErrUnavailable, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return "", "", fmt.Errorf("%w: read cookie: %w", ErrUnavailable, err)
	}
	user, password, ok := strings.Cut(strings.TrimSpace(string(text)), ":")
	if !ok {
		return "", "", fmt.Errorf("%w: the cookie file is not user:password", ErrUnavailable)
	}
	return user, password, nil
}

type answer struct {
	Result jsontext.Value `json:"result"`
	Error  *struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
	ID *uint64 `json:"id"`
}

// parseAnswer reads the body of an answer: the result, or an error that names
// the method. Anything that isn't a whole answer to the call with that id is
// [ErrUnavailable]: nothing is known of what the node did.
func parseAnswer(body []byte, status int, id uint64, method string) (jsontext.Value, error) {
	var a answer
	if err := json.Unmarshal(body, &a); err != nil {
		return nil, fmt.Errorf("%w: answer to %s (HTTP %d) is not a JSON-RPC answer", ErrUnavailable, method, status)
	}
	if a.ID == nil || *a.ID != id {
		return nil, fmt.Errorf("%w: answer to %s has the id of another call", ErrUnavailable, method)
	}
	if e := a.Error; e != nil {
		if e.Code == codeWarmingUp {
			return nil, fmt.Errorf("call %s: %w: %s", method, ErrWarmingUp, clip(e.Message))
		}
		return nil, &RPCError{Method: method, Code: e.Code, Message: e.Message}
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("%w: answer to %s has HTTP status %d and no error in it", ErrUnavailable, method, status)
	}
	if a.Result == nil {
		return nil, fmt.Errorf("%w: answer to %s has no result", ErrUnavailable, method)
	}
	return a.Result, nil
}

// clip keeps a node's words short and on one line, for logs and rows.
func clip(text string) string {
	const longest = 300
	if len(text) > longest {
		text = text[:longest] + "…"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\uFFFD' {
			return ' '
		}
		return r
	}, text)
}

// Codes of Bitcoin Core's src/rpc/protocol.h that btcd shares.
const (
	codeWarmingUp      = -28
	codeMethodNotFound = -32601
	codeInvalidRequest = -32600
	codeInternalError  = -32603
	codeAlreadyInChain = -27
)
