package wallet

import (
	"github.com/calpe/calpe/anchor/ledger"
)

// MinDeposit is the smallest deposit that ends a shortage at whatever rate the
// caps allow: it pays for an attempt that takes it up, and leaves the reserve.
func (c Caps) MinDeposit() int64 {
	return c.Reserve() + min(c.Fee, c.FeeRate.Fee(VSize(2)))
}

// Fit is the rate, lowered until a transaction with that many inputs is within
// the caps, and not below 1 sat/vB.
func (c Caps) Fit(rate ledger.FeeRate, inputs int) ledger.FeeRate {
	most := ledger.FeeRate(c.Fee * int64(ledger.SatPerVB) / int64(VSize(inputs)))
	return max(ledger.SatPerVB, min(rate, c.FeeRate, most))
}

// joinFee is what one further input costs, rounded up.
func joinFee(rate ledger.FeeRate) int64 { return rate.Fee(VSize(2) - VSize(1)) }

// Join picks the deposits that join an attempt of the coin at that fee rate, out
// of live ones that are sorted by value, largest first. There are at most
// [MaxDeposits], and each brings more than it costs. While the coin and those
// before it can't pay for the attempt and leave the reserve, a deposit joins even
// if the rate must then be lowered by [Caps.Fit]; after that, only as long as the
// fee stays within the caps at that rate.
func (c Caps) Join(coin ledger.Coin, deposits []ledger.Coin, rate ledger.FeeRate) []ledger.Coin {
	rate = c.Fit(rate, 1)
	total := coin.Value
	for n, d := range deposits {
		inputs := n + 1
		short := total-c.Fit(rate, inputs).Fee(VSize(inputs)) < c.Reserve()
		fits := rate <= c.Fit(rate, inputs+1)
		if n == MaxDeposits || d.Value <= joinFee(rate) || !short && !fits {
			return deposits[:n:n]
		}
		total += d.Value
	}
	return deposits
}

// AnchorsLeft is how many one-input anchors at that fee rate a coin of that
// value pays for, the reserve left aside.
func (c Caps) AnchorsLeft(value int64, rate ledger.FeeRate) int64 {
	fee := min(c.Fee, rate.Fee(VSize(1)))
	if fee <= 0 {
		return 0
	}
	return max(0, (value-c.Reserve())/fee)
}

// Funds is what there is to pay for anchors.
type Funds struct {
	Value     int64          // satoshis of the coin and of all live deposits
	Rate      ledger.FeeRate // that anchors cost at present
	Left      int64          // anchors that are paid for at that rate
	LeftAtCap int64          // anchors that are paid for when each costs the caps
}

// Funds reckons with the live coin, which may be nil, and the live ones of the
// deposits. A deposit counts with what is left of it when it has joined.
func (c Caps) Funds(coin *ledger.Coin, deposits []ledger.Coin, rate ledger.FeeRate) Funds {
	rate = c.Fit(rate, 1)
	f := Funds{Rate: rate}
	var now, atCap int64
	for _, d := range deposits {
		if d.State != ledger.CoinLive {
			continue
		}
		f.Value += d.Value
		now += max(0, d.Value-joinFee(rate))
		atCap += max(0, d.Value-joinFee(c.FeeRate))
	}
	if coin == nil {
		return f // an attempt must spend the coin: deposits alone pay for none
	}
	f.Value += coin.Value
	f.Left = c.AnchorsLeft(coin.Value+now, rate)
	f.LeftAtCap = c.AnchorsLeft(coin.Value+atCap, c.FeeRate)
	return f
}

// FundsState says in one word how funds stand.
type FundsState string

// The states of funds.
const (
	FundsAmple FundsState = "ample"
	// FundsLow: fewer anchors are left, at the present rate, than the operator
	// wants to be told of. A deposit is due.
	FundsLow FundsState = "low"
	// FundsOut: the next anchor can't be paid for, until a deposit is in a block
	// or the rate falls.
	FundsOut FundsState = "out"
)

// State compares with the number of anchors below which funds are low.
func (f Funds) State(low int64) FundsState {
	switch {
	case f.Left == 0:
		return FundsOut
	case f.Left < low:
		return FundsLow
	}
	return FundsAmple
}
