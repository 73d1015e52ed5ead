package bitcoin

import (
	"context"
	"encoding/hex"
	"errors"
	"strings"

	"github.com/btcsuite/btcd/btcutil/v2"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/ledger"
)

// Send hands a signed transaction to the node, once. A refusal is an answer,
// not an error. The error is for calls without an answer ([ErrUnavailable],
// [ErrWarmingUp], [ErrUnauthorized]): after one the node may have the
// transaction all the same, so it is kept and sent again.
func (c *Client) Send(ctx context.Context, raw []byte) (ledger.Answer, error) {
	var txid calpe.BlockHash
	// Only the transaction: the node's default limits for fee rate and burnt
	// coins stay in force where it has them (Bitcoin Core).
	err := c.call(ctx, smallAnswer, &txid, "sendrawtransaction", hex.EncodeToString(raw))
	if err == nil {
		return ledger.Answer{Kind: ledger.Accepted}, nil
	}
	if refusal, ok := errors.AsType[*RPCError](err); ok {
		return Classify(refusal.Code, refusal.Message), nil
	}
	return ledger.Answer{}, err
}

// TestAccept asks what the node would answer to [Client.Send], without sending.
// A user with limited rights may not ask a btcd that.
func (c *Client) TestAccept(ctx context.Context, raw []byte) (ledger.Answer, error) {
	var results []struct {
		Allowed      bool   `json:"allowed"`
		RejectReason string `json:"reject-reason"`
	}
	// Both parameters, because btcd takes no fewer; 0.1 BTC/kvB is Core's default.
	err := c.call(ctx, smallAnswer, &results, "testmempoolaccept", []string{hex.EncodeToString(raw)}, 0.1)
	if refusal, ok := errors.AsType[*RPCError](err); ok {
		return Classify(refusal.Code, refusal.Message), nil
	}
	switch {
	case err != nil:
		return ledger.Answer{}, err
	case len(results) != 1:
		return ledger.Answer{}, errors.Join(ErrUnavailable, errors.New("testmempoolaccept gave no single result"))
	case results[0].Allowed:
		return ledger.Answer{Kind: ledger.Accepted}, nil
	}
	return Classify(0, results[0].RejectReason), nil
}

// answerTexts maps what nodes say to what it means. It holds the words of btcd
// 0.26 and of Bitcoin Core 0.2x to 31; the first that is found decides.
func answerTexts() []struct {
	kind  ledger.AnswerKind
	texts []string
} {
	return []struct {
		kind  ledger.AnswerKind
		texts []string
	}{
		{ledger.AlreadyKnown, []string{"txn-already-in-mempool", "already have transaction", "txn-same-nonwitness-data-in-mempool"}},
		{ledger.AlreadyMined, []string{"already in utxo set", "already exists in blockchain", "transaction already exists", "already in block chain", "txn-already-known"}},
		{ledger.OperatorCap, []string{"fee exceeds maximum", "absurdly-high-fee", "max-fee-exceeded"}},
		{ledger.FeeTooLow, []string{
			"insufficient fee", "insufficient absolute fee", "insufficient fee rate", "insufficient priority",
			"min relay fee not met", "mempool min fee not met", "does not improve feerate diagram", "under the required amount",
		}},
		{ledger.InputsMissing, []string{"missingorspent", "missing-inputs", "missing inputs", "orphan transaction"}},
		{ledger.Conflict, []string{"txn-mempool-conflict", "already spent in mempool", "already spent by transaction"}},
		{ledger.Later, []string{"too-large-cluster", "too-long-mempool-chain", "mempool full"}},
	}
}

// Classify says what a refusal means. The text decides, because nodes use the
// same code for different things; of the codes only -27 and -28 are telling.
// What it doesn't know is [ledger.Policy]: an alarm, and no harm, because the
// transaction is kept and sent again.
func Classify(code int, message string) ledger.Answer {
	text := clip(message)
	lower := strings.ToLower(text)
	for _, row := range answerTexts() {
		for _, t := range row.texts {
			if strings.Contains(lower, t) {
				return ledger.Answer{Kind: row.kind, Text: text}
			}
		}
	}
	switch code {
	case codeAlreadyInChain:
		return ledger.Answer{Kind: ledger.AlreadyMined, Text: text}
	case codeWarmingUp:
		return ledger.Answer{Kind: ledger.Later, Text: text}
	}
	return ledger.Answer{Kind: ledger.Policy, Text: text}
}

// FeeRate is the node's estimate of the fee rate at which a transaction is
// mined within that number of blocks (2 to 25: btcd knows no more). The second
// result is false when it has none, which is normal on a young or quiet node.
func (c *Client) FeeRate(ctx context.Context, blocks int) (ledger.FeeRate, bool, error) {
	var smart struct {
		FeeRate float64 `json:"feerate"`
	}
	err := c.call(ctx, smallAnswer, &smart, "estimatesmartfee", blocks)
	refusal, refused := errors.AsType[*RPCError](err)
	switch {
	case err == nil:
		return feeRate(smart.FeeRate)
	case refused && refusal.Code == codeInternalError:
		return 0, false, nil // Bitcoin Core with -blocksonly: "Fee estimation disabled"
	case !refused || refusal.Code != codeMethodNotFound:
		return 0, false, err
	}
	var plain float64 // btcd: BTC per 1000 bytes, 0 or -1 without data
	err = c.call(ctx, smallAnswer, &plain, "estimatefee", blocks)
	refusal, refused = errors.AsType[*RPCError](err)
	switch {
	case err == nil:
		return feeRate(plain)
	case refused && (refusal.Code == codeInvalidRequest || refusal.Code == codeMethodNotFound):
		return 0, false, nil // btcd says so when it saw fewer than three blocks since its start
	}
	return 0, false, err
}

// feeRate turns BTC per 1000 vB into satoshis per 1000 vB. What can't be a rate
// is no estimate; caps are the engine's.
func feeRate(btcPerKvB float64) (ledger.FeeRate, bool, error) {
	amount, err := btcutil.NewAmount(btcPerKvB)
	if err != nil || amount <= 0 || amount > btcutil.SatoshiPerBitcoin {
		return 0, false, nil //nolint:nilerr // what isn't a fee rate is no estimate
	}
	return ledger.FeeRate(amount), true, nil
}
