package wallet_test

import (
	"errors"
	"testing"

	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/anchor/wallet"
)

func signedAttempt(fee int64, inputs int) ledger.Attempt {
	return ledger.Attempt{State: ledger.Signed, Fee: fee, VSize: wallet.VSize(inputs), Inputs: make([]ledger.Input, inputs), Raw: []byte{1}}
}

// What replaces attempts pays more than the dearest of them by the raise, at a
// rate above the highest, even where a lower fee was at a higher rate.
func TestOutbid(t *testing.T) {
	unsigned := signedAttempt(90_000, 1)
	unsigned.Raw, unsigned.State = nil, ledger.Created
	void := signedAttempt(80_000, 2)
	void.State = ledger.Void
	for _, row := range []struct {
		name     string
		attempts []ledger.Attempt
		raise    ledger.FeeRate
		inputs   int
		least    int64
	}{
		{"nothing", nil, 1000, 1, 0},
		{"nothing signed", []ledger.Attempt{unsigned}, 1000, 1, 0},
		{"nothing that can be mined", []ledger.Attempt{void}, 1000, 1, 0},
		{"one", []ledger.Attempt{signedAttempt(483, 1)}, 1000, 1, 483 + 161},
		{"the dearest, wherever it is", []ledger.Attempt{signedAttempt(900, 1), signedAttempt(483, 1), unsigned, void}, 1000, 1, 900 + 161},
		{"a higher raise", []ledger.Attempt{signedAttempt(483, 1)}, 2500, 1, 483 + 403},
		{"a raise below the least", []ledger.Attempt{signedAttempt(483, 1)}, 100, 1, 483 + 161},
		{"no raise", []ledger.Attempt{signedAttempt(483, 1)}, 0, 1, 483 + 161},
		{"more inputs pay for their size", []ledger.Attempt{signedAttempt(483, 1)}, 1000, 2, 483 + 229},
		// 4830/160 vB is 30.188 sat/vB, and so for 229 vB more than 4830 + 229 sat.
		{"more inputs keep the rate", []ledger.Attempt{signedAttempt(4830, 1)}, 1000, 2, 6914},
		{"fewer inputs pay no less", []ledger.Attempt{signedAttempt(4830, 2)}, 1000, 1, 4830 + 161},
	} {
		bid := wallet.Outbid(row.attempts, row.raise)
		least := bid.Least(wallet.VSize(row.inputs))
		if least != row.least {
			t.Errorf("%s: least fee is %d sat, want %d", row.name, least, row.least)
		}
		for _, a := range row.attempts {
			if a.State == ledger.Signed && least*int64(a.VSize-len(a.Inputs)) <= a.Fee*int64(wallet.VSize(row.inputs)) {
				t.Errorf("%s: the rate of %d sat isn't above that of %d sat for %d vB", row.name, least, a.Fee, a.VSize)
			}
		}
	}
}

// A bid that the caps don't allow is refused; one that they do is paid, whatever
// the market's rate.
func TestBuildOutbids(t *testing.T) {
	b := build(newKey(t))
	b.FeeRate = ledger.SatPerVB
	b.Bid = wallet.Outbid([]ledger.Attempt{signedAttempt(2000, 1)}, ledger.SatPerVB)
	a, err := wallet.BuildAttempt(b)
	if err != nil || a.Fee != 2161 {
		t.Fatalf("fee is %d sat (%v), want 2161", a.Fee, err)
	}
	for name, caps := range map[string]wallet.Caps{
		"rate":     {FeeRate: 13 * ledger.SatPerVB, Fee: 100_000},
		"satoshis": {FeeRate: 100 * ledger.SatPerVB, Fee: 2160},
	} {
		b.Caps = caps
		if _, err := wallet.BuildAttempt(b); !errors.Is(err, wallet.ErrCap) {
			t.Errorf("above the cap of %s: %v", name, err)
		}
	}
}

func TestCapsOfADay(t *testing.T) {
	for day, ok := range map[int64]bool{0: true, 228: false, 229: true, -1: false} {
		caps := wallet.Caps{FeeRate: ledger.SatPerVB, Fee: 229, Day: day}
		if err := caps.Validate(); (err == nil) != ok {
			t.Errorf("a day's cap of %d sat: %v", day, err)
		}
	}
}
