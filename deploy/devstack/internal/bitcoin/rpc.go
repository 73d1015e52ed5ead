package bitcoin

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/btcsuite/btcd/chainhash/v2"
	"github.com/btcsuite/btcd/wire/v2"
)

// maxAnswer bounds an answer: the largest block, in hex, and a little more.
const maxAnswer = 9 << 20

// callTimeout bounds one call; mining many blocks is the slowest.
const callTimeout = time.Minute

// RPCError is a refusal by the node.
type RPCError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

func (e *RPCError) Error() string { return fmt.Sprintf("%s (%d)", e.Message, e.Code) }

// Client calls a node's JSON-RPC interface. It may be used concurrently, and
// never retries.
type Client struct {
	url, user, password string
	http                *http.Client
}

// NewClient takes http://USER:PASSWORD@HOST:PORT.
func NewClient(rawURL string) (*Client, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, errors.New("the node's URL can't be parsed") // the parser's error would show the password
	}
	password, ok := u.User.Password()
	if u.Scheme != "http" || u.Host == "" || !ok {
		return nil, errors.New("the node's URL must be http://USER:PASSWORD@HOST:PORT")
	}
	return &Client{
		url: "http://" + u.Host, user: u.User.Username(), password: password,
		http: &http.Client{Timeout: callTimeout},
	}, nil
}

// Call calls one method. A refusal is an *RPCError.
func (c *Client) Call(ctx context.Context, result any, method string, params ...any) error {
	if params == nil {
		params = []any{}
	}
	// btcd refuses a request without the member "jsonrpc".
	body, err := json.Marshal(map[string]any{"jsonrpc": "1.0", "id": 1, "method": method, "params": params})
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	req.SetBasicAuth(c.user, c.password)
	req.Header.Set("Content-Type", "application/json")
	res, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	defer res.Body.Close()
	if err := decode(res, result); err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	return nil
}

func decode(res *http.Response, result any) error {
	if res.StatusCode == http.StatusUnauthorized {
		return errors.New("the node refuses user and password")
	}
	text, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if len(text) > maxAnswer {
		return fmt.Errorf("answer is longer than %d bytes", maxAnswer)
	}
	answer := struct {
		Result json.RawMessage
		Error  *RPCError
	}{}
	if err := json.Unmarshal(text, &answer); err != nil {
		return fmt.Errorf("answer (HTTP %d) is not JSON-RPC: %w", res.StatusCode, err)
	}
	if answer.Error != nil {
		return answer.Error
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(answer.Result, result); err != nil {
		return fmt.Errorf("parse result: %w", err)
	}
	return nil
}

// Tip is a block of the best chain. Hash is as Bitcoin shows it.
type Tip struct {
	Height int64  `json:"height"`
	Hash   string `json:"hash"`
}

// Chain asks for the network's name and the tip of the best chain.
func (c *Client) Chain(ctx context.Context) (network string, tip Tip, err error) {
	var info struct {
		Chain         string
		Blocks        int64
		BestBlockHash string
	}
	err = c.Call(ctx, &info, "getblockchaininfo")
	return info.Chain, Tip{info.Blocks, info.BestBlockHash}, err
}

// BlockHash asks for the hash of the best chain's block at a height.
func (c *Client) BlockHash(ctx context.Context, height int64) (hash string, err error) {
	err = c.Call(ctx, &hash, "getblockhash", height)
	return hash, err
}

// Block asks for a whole block.
func (c *Client) Block(ctx context.Context, hash string) (*wire.MsgBlock, error) {
	var text string
	if err := c.Call(ctx, &text, "getblock", hash, 0); err != nil {
		return nil, err
	}
	raw, err := hex.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("block %s: %w", hash, err)
	}
	block := new(wire.MsgBlock)
	if err := block.Deserialize(bytes.NewReader(raw)); err != nil {
		return nil, fmt.Errorf("block %s: %w", hash, err)
	}
	return block, nil
}

// Unspent reports whether an output is in the best chain and spent by no
// transaction of it.
func (c *Client) Unspent(ctx context.Context, out wire.OutPoint) (bool, error) {
	var answer *struct{}
	err := c.Call(ctx, &answer, "gettxout", out.Hash.String(), out.Index, false)
	return answer != nil, err
}

// Send hands a transaction to the node.
func (c *Client) Send(ctx context.Context, tx *wire.MsgTx) (chainhash.Hash, error) {
	var raw bytes.Buffer
	if err := tx.Serialize(&raw); err != nil {
		return chainhash.Hash{}, err
	}
	var txid string
	if err := c.Call(ctx, &txid, "sendrawtransaction", hex.EncodeToString(raw.Bytes())); err != nil {
		return chainhash.Hash{}, err
	}
	if txid != tx.TxHash().String() {
		return chainhash.Hash{}, fmt.Errorf("the node took transaction %s for %s", tx.TxHash(), txid)
	}
	return tx.TxHash(), nil
}

// mineChunk keeps one call well below callTimeout.
const mineChunk = 200

// Mine makes n blocks at once and returns their hashes.
func (c *Client) Mine(ctx context.Context, n int) ([]string, error) {
	var all []string
	for n > 0 {
		var hashes []string
		if err := c.Call(ctx, &hashes, "generate", min(n, mineChunk)); err != nil {
			return all, err
		}
		if len(hashes) == 0 {
			return all, errors.New("generate: the node made no block")
		}
		all, n = append(all, hashes...), n-len(hashes)
	}
	return all, nil
}
