package wallet_test

import (
	"testing"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/anchor/wallet"
)

func deposits(values ...int64) (all []ledger.Coin) {
	for i, v := range values {
		all = append(all, ledger.Coin{
			Outpoint: calpe.Outpoint{TxID: calpe.BlockHash{byte(i), 0xdd}}, Output: ledger.Output{Value: v}, Kind: ledger.DepositCoin, State: ledger.CoinLive,
		})
	}
	return all
}

// The reserve is 10294 sat, a deposit costs 68 vB, the fee cap is 10000 sat.
func TestJoin(t *testing.T) {
	many := make([]int64, 20)
	for i := range many {
		many[i] = 20_000
	}
	for _, row := range []struct {
		name     string
		coin     int64
		deposits []int64
		rate     ledger.FeeRate
		want     int
	}{
		{"none", 1_000_000, nil, 1000, 0},
		{"one", 1_000_000, []int64{20_000}, 1000, 1},
		{"worth less than it costs", 1_000_000, []int64{20_000, 68, 68}, 1000, 1},
		{"worth a satoshi more", 1_000_000, []int64{20_000, 69, 68}, 1000, 2},
		{"more than are bounded", 1_000_000, many, 1000, wallet.MaxDeposits},
		{"above the fee cap with two", 1_000_000, many, 35_000, 1}, // 5635, 8015, 10395 sat
		{"above the fee cap, and not needed", 1_000_000, many, 62_000, 0},
		{"above the fee cap, and needed", 10_294, many, 62_000, 1},
		{"above the fee cap, and two are needed", 300, []int64{15_000, 12_000, 11_000}, 62_000, 2},
		{"all of it isn't enough", 300, []int64{7_000, 5_000}, 62_000, 2},
	} {
		got := caps.Join(ledger.Coin{Output: ledger.Output{Value: row.coin}}, deposits(row.deposits...), row.rate)
		if len(got) != row.want {
			t.Errorf("%s: %d deposits join, want %d", row.name, len(got), row.want)
		}
	}
}

// Whatever the caps, the smallest deposit heals an empty coin at any rate.
func TestMinDepositHeals(t *testing.T) {
	k := newKey(t)
	for _, c := range []wallet.Caps{{FeeRate: 1000, Fee: 229}, {FeeRate: 1000, Fee: 1e6}, {FeeRate: 20_000, Fee: 20_000}, {FeeRate: 500_000, Fee: 300}} {
		if err := c.Validate(); err != nil {
			t.Fatal(err)
		}
		coin, deposit := input(k, 1, 1), input(k, 2, c.MinDeposit())
		for _, rate := range []ledger.FeeRate{1000, 5000, 20_000, 500_000} {
			rate = min(rate, c.FeeRate)
			joined := c.Join(ledger.Coin{Output: coin.Output}, []ledger.Coin{{Outpoint: deposit.Outpoint, Output: deposit.Output}}, rate)
			b := build(k)
			b.Coin, b.Extra, b.Caps, b.FeeRate = coin, []ledger.Input{deposit}, c, c.Fit(rate, 2)
			a, err := wallet.BuildAttempt(b)
			if err != nil || len(joined) != 1 || a.Change < c.Reserve() {
				t.Errorf("caps %+v at %v: %d join, change %d, %v", c, rate, len(joined), a.Change, err)
			}
		}
	}
	if err := (wallet.Caps{FeeRate: 1000, Fee: 228}).Validate(); err == nil {
		t.Error("caps under which no deposit ever joins")
	}
}

func TestFunds(t *testing.T) {
	coin := &ledger.Coin{Output: ledger.Output{Value: caps.Reserve() + 1610}}
	void := deposits(1_000_000)
	void[0].State = ledger.CoinVoid
	for _, row := range []struct {
		name            string
		coin            *ledger.Coin
		deposits        []ledger.Coin
		rate            ledger.FeeRate
		value, left, at int64
		state           wallet.FundsState
	}{
		{"coin", coin, nil, 1000, caps.Reserve() + 1610, 10, 0, wallet.FundsLow},
		{"coin and deposit", coin, deposits(68 + 1610), 1000, caps.Reserve() + 1610 + 1678, 20, 0, wallet.FundsAmple},
		{"deposit that costs more than it is", coin, deposits(68), 1000, caps.Reserve() + 1678, 10, 0, wallet.FundsLow},
		{"void deposit", coin, void, 1000, caps.Reserve() + 1610, 10, 0, wallet.FundsLow},
		{"many anchors at the caps", coin, deposits(6_800 + 49_000), 1000, caps.Reserve() + 1610 + 55_800, 356, 5, wallet.FundsAmple},
		{"rate above the caps", coin, deposits(6_800 + 49_000), 1e6, caps.Reserve() + 1610 + 55_800, 5, 5, wallet.FundsLow},
		{"rate of nothing", coin, nil, 0, caps.Reserve() + 1610, 10, 0, wallet.FundsLow},
		{"empty coin", &ledger.Coin{Output: ledger.Output{Value: 500}}, nil, 1000, 500, 0, 0, wallet.FundsOut},
		{"deposit without a coin", nil, deposits(1_000_000), 1000, 1_000_000, 0, 0, wallet.FundsOut},
	} {
		f := caps.Funds(row.coin, row.deposits, row.rate)
		if f.Value != row.value || f.Left != row.left || f.LeftAtCap != row.at || f.State(20) != row.state {
			t.Errorf("%s: %+v, %s", row.name, f, f.State(20))
		}
	}
}
