package signer

import (
	"errors"
	"fmt"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/calpe/calpe/anchor/wallet"
)

// The protocol: a connection carries one JSON object there, which ends where the
// client closes its direction, and one back. Byte strings are base64, hashes hex.
//
//	{"method": "status"}                          → {"status": …} or {"error": …}
//	{"method": "sign", "sign": {"unsigned": …}}   → {"raw": …} or {"error": …}

const (
	methodStatus = "status"
	methodSign   = "sign"

	// maxCall is above a request whose inputs all come from transactions as large as
	// a block: whoever pays us in such a one must not stop the anchors.
	maxCall = 32 << 20
	// maxAnswer is above the largest signed anchor and above the status of the
	// most keys.
	maxAnswer = 64 << 10
)

// call is what goes to the signer.
type call struct {
	Method string   `json:"method"`
	Sign   *Request `json:"sign,omitzero"`
}

// answer is what comes back: one of the three.
type answer struct {
	Status *Status  `json:"status,omitzero"`
	Raw    []byte   `json:"raw,omitzero"`
	Error  *failure `json:"error,omitzero"`
}

// failure carries an error's kind, so that errors.Is works across the socket.
type failure struct {
	Code string `json:"code"`
	Text string `json:"text"`
}

// parseCall reads any bytes.
func parseCall(b []byte) (call, error) {
	var c call
	if len(b) > maxCall {
		return c, fmt.Errorf("a call of more than %d bytes", maxCall)
	}
	if err := json.Unmarshal(b, &c, json.RejectUnknownMembers(true)); err != nil {
		return c, fmt.Errorf("read call: %w", err)
	}
	switch {
	case c.Method == methodStatus && c.Sign == nil:
		return c, nil
	case c.Method == methodSign && c.Sign != nil:
		return c, c.Sign.validate()
	}
	return c, errors.New(`a call is {"method":"status"} or {"method":"sign","sign":{…}}`)
}

// validate bounds everything in a request before any work is done with it.
func (r Request) validate() error {
	if len(r.Unsigned) > MaxUnsigned {
		return fmt.Errorf("a transaction of %d bytes, at most %d", len(r.Unsigned), MaxUnsigned)
	}
	if len(r.Previous) > wallet.MaxInputs {
		return fmt.Errorf("%d previous transactions, at most %d", len(r.Previous), wallet.MaxInputs)
	}
	for i, tx := range r.Previous {
		if len(tx) > MaxPrevious {
			return fmt.Errorf("previous transaction %d of %d bytes, at most %d", i, len(tx), MaxPrevious)
		}
	}
	if len(r.Proof) > MaxProof {
		return fmt.Errorf("a proof of %d hashes, at most %d", len(r.Proof), MaxProof)
	}
	return nil
}

// kinds are the errors that keep their kind across the socket.
func kinds() map[string]error {
	return map[string]error{
		"policy": wallet.ErrPolicy, "cap": wallet.ErrCap, "budget": ErrBudget, "history": ErrHistory, "chain": ErrChain, "state": ErrState,
	}
}

// newFailure describes an error for the other side.
func newFailure(err error) *failure {
	const longest = 500
	f := &failure{Code: "failed", Text: err.Error()}
	f.Text = strings.ToValidUTF8(f.Text[:min(len(f.Text), longest)], "")
	for code, kind := range kinds() {
		general := code == "policy" || code == "cap" // each of the others is one of them
		if errors.Is(err, kind) && (f.Code == "failed" || !general) {
			f.Code = code
		}
	}
	return f
}

// failed is an error that came over the socket.
type failed struct {
	text string
	kind error // nil if it has none that we know
}

func (f *failed) Error() string { return f.text }
func (f *failed) Unwrap() error { return f.kind }

func (f failure) err() error { return &failed{text: "signer: " + f.Text, kind: kinds()[f.Code]} }
