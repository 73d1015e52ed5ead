package demo

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/btcsuite/btcd/chainhash/v2"
	"github.com/btcsuite/btcd/wire/v2"
	"github.com/calpe/calpe/deploy/devstack/internal/bitcoin"
	"github.com/calpe/calpe/deploy/devstack/internal/dev"
)

// poll is how often a service is asked how far it is.
const poll = 100 * time.Millisecond

// states in the order in which an entry goes through them.
var states = [...]string{"received", "checkpointed", "broadcast", "confirmed", "final"}

// reached reports whether a state is the wanted one or comes behind it.
func reached(state, wanted string) bool {
	at := slices.Index(states[:], state)
	return at >= 0 && at >= slices.Index(states[:], wanted)
}

// evidence is what the demo shows of a receipt, or of the public answer about an
// entry: both have these members.
type evidence struct {
	Index           uint64
	State           string
	Checkpoint      string
	Acknowledgement *struct{ Note string }
	Certification   *struct{ Index uint64 }
	Anchor          *struct {
		Height      int64
		Header      string
		Transaction string
	}
}

func readEvidence(path string) (evidence, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return evidence{}, err
	}
	var e evidence
	if err := json.Unmarshal(text, &e); err != nil {
		return evidence{}, fmt.Errorf("parse %s: %w", path, err)
	}
	return e, nil
}

// promise is the time and the deadline in the acknowledgement.
func (e evidence) promise() (made, deadline string, ok bool) {
	if e.Acknowledgement == nil {
		return "", "", false
	}
	lines := strings.Split(e.Acknowledgement.Note, "\n")
	if len(lines) < 7 {
		return "", "", false
	}
	return lines[5], lines[6], true
}

// tree is the size and the root, in hex, in the checkpoint.
func (e evidence) tree() (size uint64, root string, err error) {
	lines := strings.Split(e.Checkpoint, "\n")
	if len(lines) < 3 {
		return 0, "", errors.New("the entry has no checkpoint")
	}
	if size, err = strconv.ParseUint(lines[1], 10, 64); err != nil {
		return 0, "", fmt.Errorf("size of the checkpoint: %w", err)
	}
	var raw []byte
	if err := json.Unmarshal([]byte(strconv.Quote(lines[2])), &raw); err != nil { // base64, as JSON has bytes
		return 0, "", fmt.Errorf("root of the checkpoint: %w", err)
	}
	return size, hex.EncodeToString(raw), nil
}

// txid and block are the hashes of the anchor's transaction and block.
func (e evidence) anchored() (txid, block string, err error) {
	if e.Anchor == nil {
		return "", "", errors.New("there is no anchor")
	}
	tx, err1 := hex.DecodeString(e.Anchor.Transaction)
	header, err2 := hex.DecodeString(e.Anchor.Header)
	return chainhash.DoubleHashH(tx).String(), chainhash.DoubleHashH(header).String(), errors.Join(err1, err2)
}

// service is a running Calpe as anybody sees it.
type service struct{ *dev.Server }

// entry asks for the public proof of an entry, in the best tree that there is.
func (s service) entry(ctx context.Context, index uint64) (evidence, error) {
	return s.proof(ctx, fmt.Sprintf("/v1/entries/%d", index))
}

// entryIn asks for the proof in the tree of a size.
func (s service) entryIn(ctx context.Context, index, size uint64) (evidence, error) {
	return s.proof(ctx, fmt.Sprintf("/v1/entries/%d?size=%d", index, size))
}

func (s service) proof(ctx context.Context, path string) (e evidence, err error) {
	text, err := dev.Get(ctx, s.URL+path)
	if err == nil {
		err = json.Unmarshal(text, &e)
	}
	return e, err
}

// watermarks are how far the log is.
type watermarks struct{ Next, Checkpointed, Broadcast, Confirmed, Final uint64 }

func (s service) watermarks(ctx context.Context) (w watermarks, err error) {
	text, err := dev.Get(ctx, s.URL+"/v1/status")
	if err == nil {
		err = json.Unmarshal(text, &w)
	}
	return w, err
}

// await asks for an entry until it is in a state, or one behind that. Between
// two questions it calls idle, if there is one.
func (s service) await(ctx context.Context, index uint64, state string, idle func(context.Context) error) (evidence, error) {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	last := "unknown"
	for {
		e, err := s.entry(ctx, index)
		if err == nil && reached(e.State, state) {
			return e, nil
		}
		if err != nil {
			last = err.Error()
		} else {
			last = e.State
		}
		if idle != nil {
			if err := idle(ctx); err != nil {
				return evidence{}, err
			}
		}
		select {
		case <-ctx.Done():
			return evidence{}, fmt.Errorf("wait for entry %d to be %s: %w; it is %s", index, state, ctx.Err(), last)
		case <-tick.C:
		}
	}
}

// payloadSize is what an anchor's OP_RETURN carries: "CLP", 5 bytes of size, 32 of root.
const payloadSize = 40

// announced looks in the node's mempool for the transaction that carries a
// root, and returns its id and the payload in hex.
func announced(ctx context.Context, node *bitcoin.Client, root string) (txid, payload string, err error) {
	var pool []string
	if err := node.Call(ctx, &pool, "getrawmempool"); err != nil {
		return "", "", err
	}
	for _, id := range pool {
		var text string
		if err := node.Call(ctx, &text, "getrawtransaction", id); err != nil {
			return "", "", err
		}
		raw, err := hex.DecodeString(text)
		if err != nil {
			return "", "", fmt.Errorf("transaction %s: %w", id, err)
		}
		var tx wire.MsgTx
		if err := tx.Deserialize(bytes.NewReader(raw)); err != nil {
			return "", "", fmt.Errorf("transaction %s: %w", id, err)
		}
		script := tx.TxOut[0].PkScript
		if len(script) == payloadSize+2 && hex.EncodeToString(script[10:]) == root {
			return id, hex.EncodeToString(script[2:]), nil
		}
	}
	return "", "", fmt.Errorf("none of the %d transactions in the node's mempool carries the root %s", len(pool), root)
}
