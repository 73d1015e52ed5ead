package main

import (
	"bytes"
	"encoding/csv"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/storage/postgres"
	"github.com/calpe/calpe/storage/postgres/postgrestest"
)

var ledgerTime = time.Date(2026, 11, 21, 9, 30, 0, 0, time.UTC)

// A deposit, an anchor, an anchor whose fee isn't known, and a theft.
func TestLedgerRows(t *testing.T) {
	rates, err := parseRates(strings.NewReader("date,EUR\n2026-11-22,100000\n2026-11-20,81234.5\n"))
	if err != nil {
		t.Fatal(err)
	}
	at := func(days int) time.Time { return ledgerTime.AddDate(0, 0, days) }
	rows, err := ledgerRows([]ledger.Movement{
		{Kind: ledger.MovedIn, Time: at(0), TxID: calpe.BlockHash{1}, Height: 100, Amount: 1_000_000},
		{Kind: ledger.MovedFee, Time: at(0), TxID: calpe.BlockHash{2}, Height: 101, Amount: -323, Fee: 323, VSize: 161, Size: 40},
		{Kind: ledger.MovedFee, Time: at(1), TxID: calpe.BlockHash{3}, Height: 102, Amount: -200, VSize: 161, Size: 100, Final: true},
		{Kind: ledger.MovedAway, Time: at(2), TxID: calpe.BlockHash{4}, Height: 103, Amount: -999_477},
	}, rates)
	if err != nil {
		t.Fatal(err)
	}
	id := func(n string) string { return strings.Repeat("0", 63) + n }
	want := [][]string{
		{"date", "type", "txid", "block", "amount_sat", "fee_sat", "fee_rate_sat_per_vb", "entries", "log_size", "balance_sat", "EUR_per_btc", "amount_EUR"},
		{"2026-11-21T09:30:00Z", "deposit", id("1"), "100", "1000000", "", "", "", "", "1000000", "81234.5", "812.3450"},
		{"2026-11-21T09:30:00Z", "anchor", id("2"), "101", "-323", "323", "2.007", "40", "40", "999677", "81234.5", "-0.2624"},
		{"2026-11-22T09:30:00Z", "anchor", id("3"), "102", "-200", "", "", "60", "100", "999477", "100000", "-0.2000"},
		{"2026-11-23T09:30:00Z", "foreign", id("4"), "103", "-999477", "", "", "", "", "0", "100000", "-999.4770"},
	}
	if diff := cmp.Diff(want, rows); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	if _, err := ledgerRows([]ledger.Movement{{Kind: ledger.MovedIn, Time: at(-2)}}, rates); err == nil || !strings.Contains(err.Error(), "2026-11-19") {
		t.Errorf("a day without a rate: %v", err)
	}
}

func TestRatesRefused(t *testing.T) {
	for name, row := range map[string]struct{ file, say string }{
		"empty":             {"", "first line"},
		"no title":          {"2026-11-21,5\n", "want date,EUR"},
		"another title":     {"date,=1+1\n", "want date,EUR"},
		"three columns":     {"date,EUR,x\n", "first line"},
		"a third column":    {"date,EUR\n2026-11-21,5,6\n", "line 2"},
		"not a date":        {"date,EUR\n2026-11-20,4\n21.11.2026,5\n", "line 3"},
		"no such day":       {"date,EUR\n2026-02-30,5\n", "line 2"},
		"not a price":       {"date,EUR\n2026-11-21,much\n", "line 2"},
		"a negative price":  {"date,EUR\n2026-11-21,-5\n", "line 2"},
		"no price":          {"date,EUR\n2026-11-21,0.00\n", "line 2"},
		"an enormous price": {"date,EUR\n2026-11-21,1e999999999\n", "line 2"},
		"a fraction":        {"date,EUR\n2026-11-21,1/3\n", "line 2"},
		"a day twice":       {"date,EUR\n2026-11-21,5\n2026-11-21,6\n", "twice"},
	} {
		if _, err := parseRates(strings.NewReader(row.file)); err == nil || !strings.Contains(err.Error(), row.say) {
			t.Errorf("%s: %v, want a word of %q", name, err, row.say)
		}
	}
	if r, err := openRates(""); r != nil || err != nil {
		t.Errorf("no file: %v, %v", r, err)
	}
	large := filepath.Join(t.TempDir(), "rates.csv")
	if err := os.WriteFile(large, bytes.Repeat([]byte("\n"), maxRates+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openRates(large); err == nil || !strings.Contains(err.Error(), "larger") {
		t.Errorf("a large file: %v", err)
	}
}

// FuzzRates: whatever the file holds, what was read gives a price above nothing
// for its own days.
func FuzzRates(f *testing.F) {
	f.Add("date,EUR\n2026-11-21,5\n")
	f.Add("date,USD\r\n2026-11-21,\"81234.50\"\r\n2026-11-20, 7\n")
	f.Add("date,EUR\n2026-11-21,1e9\n")
	f.Fuzz(func(t *testing.T, file string) {
		r, err := parseRates(strings.NewReader(file))
		if err != nil {
			return
		}
		for _, d := range r.days {
			day, err := time.Parse(time.DateOnly, d.day)
			if err != nil {
				t.Fatalf("day %q", d.day)
			}
			if got, err := r.at(day.Add(23 * time.Hour)); err != nil || got.day != d.day || got.rate.Sign() <= 0 {
				t.Fatalf("%s: %+v, %v", d.day, got, err)
			}
		}
	})
}

// What the commands print, on a database with a first coin, a deposit, and an
// anchor that took neither up.
func TestWalletMoney(t *testing.T) {
	url := postgrestest.URL(t)
	db, err := postgres.Open(t.Context(), postgres.Config{URL: url, MaxConns: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if code, _, stderr := calped(t, "wallet", "balance", "--network=regtest", "--database-url="+url); code != exitFail || !strings.Contains(stderr, "no coin is live") {
		t.Errorf("balance of nothing: exit %d: %s", code, stderr)
	}
	block := func(n uint32) ledger.Block {
		b := ledger.Block{Height: n, Hash: calpe.BlockHash{byte(n), 0xbb}}
		copy(b.Header[4:], []byte{byte(n - 1), 0xbb})
		copy(b.Header[68:], []byte{0x08, 0x62, 0x21, 0x6b}) // 2026-12-22T00:59:36Z
		return b
	}
	coin := func(n byte, kind ledger.CoinKind, value int64, height uint32) ledger.Coin {
		return ledger.Coin{
			Outpoint: calpe.Outpoint{TxID: calpe.BlockHash{n}, Vout: 1}, Output: ledger.Output{Value: value, Script: []byte{1}},
			Kind: kind, State: ledger.CoinLive, Height: height,
		}
	}
	first, deposit := coin(1, ledger.ChainCoin, 100_000, 2), coin(2, ledger.DepositCoin, 50_000, 3)
	if err := db.Anchors().InsertFirstCoin(t.Context(), first, []ledger.Block{block(1), block(2)}); err != nil {
		t.Fatal(err)
	}
	postgrestest.Exec(t, url, `UPDATE leader SET epoch = 1 WHERE role = 'anchor'`)
	if err := db.Anchors().ConnectBlock(t.Context(), 1, block(3), []ledger.Event{{Deposit: &deposit}}); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := calped(t, "wallet", "balance", "--network=regtest", "--database-url="+url, "--anchor-low-funds=1000")
	want := "coin     " + first.Outpoint.String() + "\nvalue    100000 sat\ndeposit  " + deposit.Outpoint.String() +
		", 50000 sat\nfunds    low, 150000 sat\nanchors  454 left at 2.000 sat/vB, 45 at the cap\nas of    block 3\n"
	if code != exitOK || stdout != want {
		t.Errorf("balance: exit %d: %s\n%s\nwant\n%s", code, stderr, stdout, want)
	}
	if code, stdout, _ := calped(t, "wallet", "ledger", "--network=regtest", "--database-url="+url); code != exitOK || strings.Count(stdout, "\n") != 3 {
		t.Errorf("ledger: exit %d:\n%s", code, stdout)
	}
	rates := filepath.Join(t.TempDir(), "rates.csv")
	if err := os.WriteFile(rates, []byte("date,EUR\n2026-11-21,100000\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr = calped(t, "wallet", "ledger", "--csv", "--rates="+rates, "--network=regtest", "--database-url="+url)
	rows, err := csv.NewReader(strings.NewReader(stdout)).ReadAll()
	if code != exitOK || err != nil || len(rows) != 3 {
		t.Fatalf("ledger --csv: exit %d: %s\n%s", code, stderr, stdout)
	}
	if diff := cmp.Diff([]string{"50000", "150000", "100000", "50.0000"}, []string{rows[2][4], rows[2][9], rows[2][10], rows[2][11]}); diff != "" || !strings.Contains(stdout, "\r\n") {
		t.Errorf("ledger --csv:\n%s\n%s", diff, stdout)
	}
}
