package main

import (
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"math/big"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/calpe/calpe/anchor/ledger"
)

type walletLedger struct {
	CSV   bool   `help:"Print comma-separated values (RFC 4180), for a spreadsheet, instead of a table."`
	Rates string `help:"CSV file of exchange rates: a first line \"date,EUR\" with your currency, then lines \"2026-11-21,81234.50\", the price of one bitcoin. Adds two columns." type:"existingfile"`
}

// Run tells what the blocks hold as far as they were followed.
func (c *walletLedger) Run(ctx context.Context, a *app) error {
	rates, err := openRates(c.Rates)
	if err != nil {
		return err
	}
	db, err := a.openDatabase(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	movements, err := db.Anchors().Movements(ctx)
	if err != nil {
		return err
	}
	rows, err := ledgerRows(movements, rates)
	if err != nil {
		return err
	}
	if !c.CSV {
		return writeTable(a.stdout, rows)
	}
	w := csv.NewWriter(a.stdout)
	w.UseCRLF = true // RFC 4180
	return w.WriteAll(rows)
}

func writeTable(out io.Writer, rows [][]string) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}

// ledgerRows is one row for each movement under a row of titles. Amounts are in
// satoshis and whole; the balance is that after the row.
func ledgerRows(movements []ledger.Movement, rates *rates) ([][]string, error) {
	titles := []string{"date", "type", "txid", "block", "amount_sat", "fee_sat", "fee_rate_sat_per_vb", "entries", "log_size", "balance_sat"}
	if rates != nil {
		titles = append(titles, rates.currency+"_per_btc", "amount_"+rates.currency)
	}
	rows := [][]string{titles}
	var balance int64
	var covered uint64
	for _, m := range movements {
		balance += m.Amount
		row := []string{
			m.Time.Format(time.RFC3339), string(m.Kind), m.TxID.String(), strconv.FormatUint(uint64(m.Height), 10),
			strconv.FormatInt(m.Amount, 10), "", "", "", "", strconv.FormatInt(balance, 10),
		}
		if m.Kind == ledger.MovedFee {
			if m.Fee > 0 { // else it isn't known
				row[5] = strconv.FormatInt(m.Fee, 10)
				row[6] = big.NewRat(int64(m.FeeRate()), int64(ledger.SatPerVB)).FloatString(3)
			}
			row[7] = strconv.FormatUint(m.Size-min(m.Size, covered), 10)
			row[8] = strconv.FormatUint(m.Size, 10)
			covered = max(covered, m.Size)
		}
		if rates != nil {
			rate, err := rates.at(m.Time)
			if err != nil {
				return nil, err
			}
			amount := new(big.Rat).Mul(rate.rate, big.NewRat(m.Amount, satPerBTC))
			row = append(row, rate.text, amount.FloatString(4))
		}
		rows = append(rows, row)
	}
	return rows, nil
}

const satPerBTC = 100_000_000

// rates are prices of one bitcoin by day.
type rates struct {
	currency string
	days     []rateOfDay // ascending
}

type rateOfDay struct {
	day  string // YYYY-MM-DD
	text string // as the file has it
	rate *big.Rat
}

// at is the price of the day, in UTC, or of the last one before that has one.
func (r *rates) at(t time.Time) (rateOfDay, error) {
	day := t.UTC().Format(time.DateOnly)
	n, found := slices.BinarySearchFunc(r.days, day, func(d rateOfDay, day string) int { return strings.Compare(d.day, day) })
	if found {
		n++
	}
	if n == 0 {
		return rateOfDay{}, fmt.Errorf("the file of rates has none of %s or before; add one", day)
	}
	return r.days[n-1], nil
}

// maxRates is the largest file of rates that is read: a century of days has 1 MB.
const maxRates = 4 << 20

// openRates reads a file of rates; without a name there are none.
func openRates(path string) (*rates, error) {
	if path == "" {
		return nil, nil //nolint:nilnil // no rates are asked for
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read rates: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Size() > maxRates {
		return nil, fmt.Errorf("read rates in %s: it is larger than %d bytes, or not a file", path, maxRates)
	}
	r, err := parseRates(io.LimitReader(f, maxRates))
	if err != nil {
		return nil, fmt.Errorf("read rates in %s: %w", path, err)
	}
	return r, nil
}

var (
	currencyForm = regexp.MustCompile(`^[A-Za-z]{2,10}$`)
	rateForm     = regexp.MustCompile(`^[0-9]{1,12}(\.[0-9]{1,8})?$`)
)

// parseRates reads "date,CURRENCY" and then a day and a price in each line, in any
// order. Each error names the line.
func parseRates(in io.Reader) (*rates, error) {
	c := csv.NewReader(in)
	c.FieldsPerRecord, c.TrimLeadingSpace = 2, true
	title, err := c.Read()
	if err != nil {
		return nil, fmt.Errorf("first line: %w", err)
	}
	if title[0] != "date" || !currencyForm.MatchString(title[1]) {
		return nil, fmt.Errorf("first line is %q, want date,EUR, or another currency", strings.Join(title, ","))
	}
	r := &rates{currency: title[1]}
	for {
		record, err := c.Read()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		line, _ := c.FieldPos(0)
		if _, err := time.Parse(time.DateOnly, record[0]); err != nil {
			return nil, fmt.Errorf("line %d: %q is no date such as 2026-11-21", line, record[0])
		}
		if !rateForm.MatchString(record[1]) { // before it is parsed: 1e999999999 is a number, too
			return nil, fmt.Errorf("line %d: %q is no price such as 81234.50", line, record[1])
		}
		price, ok := new(big.Rat).SetString(record[1])
		if !ok || price.Sign() == 0 {
			return nil, fmt.Errorf("line %d: a price of %s", line, record[1])
		}
		r.days = append(r.days, rateOfDay{record[0], record[1], price})
	}
	slices.SortStableFunc(r.days, func(a, b rateOfDay) int { return strings.Compare(a.day, b.day) })
	for i := 1; i < len(r.days); i++ {
		if r.days[i].day == r.days[i-1].day {
			return nil, fmt.Errorf("%s is there twice", r.days[i].day)
		}
	}
	return r, nil
}
