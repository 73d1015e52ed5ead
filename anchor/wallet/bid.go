package wallet

import "github.com/calpe/calpe/anchor/ledger"

// Bid is what a new attempt of a coin has to outbid. Its zero value is nothing.
type Bid struct {
	Fee   int64          // highest fee of an attempt that may be with a node
	Rate  ledger.FeeRate // highest fee rate of one
	Raise ledger.FeeRate // what a node asks for relaying the replacement: at least 1 sat/vB
}

// Outbid is the bid of those attempts of a coin that are signed and could be mined
// now: each of them may have been sent, whatever its row says of an answer. What
// was never signed counts for nothing, and so does what a reorganisation made
// void with a deposit: the deposit may never come back, and a dear attempt of it
// must not keep the coin from being spent. A node that has it all the same, because
// it has the deposit in its mempool, refuses less, and gets more at the next block.
func Outbid(attempts []ledger.Attempt, raise ledger.FeeRate) Bid {
	bid := Bid{Raise: max(raise, ledger.SatPerVB)}
	for _, a := range attempts {
		if a.Raw == nil || !a.State.Unmined() {
			continue
		}
		bid.Fee = max(bid.Fee, a.Fee)
		// VSize is for signatures of the longest form; shorter ones make the rate higher.
		shortest := int64(a.VSize - len(a.Inputs))
		bid.Rate = max(bid.Rate, ledger.FeeRate((a.Fee*int64(ledger.SatPerVB)+shortest-1)/shortest))
	}
	return bid
}

// Least is the lowest fee at which nodes replace what was bid by a transaction of
// that many virtual bytes: more by the raise for each of them (BIP 125, rules 3
// and 4), and at a strictly higher rate. Fees of descendants, which a replacement
// must pay for too, don't come into it: the engine never builds on an unconfirmed
// coin, and nobody else can spend one. It is 0 when nothing was bid.
func (b Bid) Least(vsize int) int64 {
	if b.Fee == 0 {
		return 0
	}
	return max(b.Fee+b.Raise.Fee(vsize), int64(b.Rate)*int64(vsize)/int64(ledger.SatPerVB)+1)
}
