package headers

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/big"
	"time"

	"github.com/btcsuite/btcd/chainhash/v2"

	"github.com/calpe/calpe"
)

// Chain is a chain of verified headers of one network, from the genesis block
// to a tip. It never changes, so it may be used from several goroutines at once.
type Chain struct {
	params  *Params
	headers store // never empty
	tip     chainhash.Hash
	work    *big.Int
}

// Read verifies raw headers of 80 bytes each up to the end of r; the first is
// that of the genesis block. It keeps those 80 bytes a header, and reads at most
// Params.MaxHeaders of them.
//
// The error is a *RuleError for a header that breaks a rule, or wraps
// ErrTruncated, ErrEmpty, ErrTooLong, what r returned or, when all headers are
// right but there are too few of them, ErrTooLittleWork.
func Read(r io.Reader, params Params) (*Chain, error) {
	c, err := ReadPartial(r, params)
	if err != nil {
		return nil, err
	}
	if !c.EnoughWork() {
		return nil, fmt.Errorf("chain of %s ends at height %d with work %x, but at least %x is known to be done: %w",
			params.Network, c.headers.n-1, c.work, params.MinWork, ErrTooLittleWork)
	}
	return c, nil
}

// ReadPartial is Read for who is still fetching headers: it doesn't ask for the
// pinned minimum work. Nothing may be believed from a chain that has less
// (EnoughWork): on mainnet a short one with valid work is cheap to make.
func ReadPartial(r io.Reader, params Params) (*Chain, error) {
	if err := params.check(); err != nil {
		return nil, err
	}
	v := resume(&params, store{}, new(big.Int))
	in := bufio.NewReaderSize(r, 1<<16)
	raw := make([]byte, HeaderSize)
	for {
		n, err := io.ReadFull(in, raw)
		switch {
		case err == io.EOF && v.headers.n == 0:
			return nil, ErrEmpty
		case err == io.EOF:
			return v.chain(), nil
		case errors.Is(err, io.ErrUnexpectedEOF):
			return nil, fmt.Errorf("%d bytes at byte offset %d, height %d: %w", n, v.headers.n*HeaderSize, v.headers.n, ErrTruncated)
		case err != nil:
			return nil, fmt.Errorf("read block header at height %d: %w", v.headers.n, err)
		}
		if err := v.add(raw); err != nil {
			return nil, err
		}
	}
}

// chain hands the headers over; the verifier must not be used after it.
func (v *verifier) chain() *Chain {
	return &Chain{params: v.params, headers: v.headers, tip: v.tip, work: v.work}
}

// Extend returns the chain with more raw headers, 80 bytes each, that a node
// gave. The first must follow a block of the chain, not necessarily the tip:
// when the chain was reorganised, the headers of the new branch replace those
// above the block that they follow. Headers that the chain already has are
// skipped, and the result is c itself when there are no others. c is unchanged
// in any case, and after an error nothing was added.
//
// The error is a *RuleError, also for a branch below a pinned block that the
// chain has, or wraps ErrTruncated, ErrTooLong, ErrUnconnected or ErrLessWork:
// a branch must have more work than what it replaces. So work only grows, and
// EnoughWork stays true once it is.
func (c *Chain) Extend(raw []byte) (*Chain, error) {
	if rest := len(raw) % HeaderSize; rest != 0 {
		return nil, fmt.Errorf("%d bytes at byte offset %d of the extension: %w", rest, len(raw)-rest, ErrTruncated)
	}
	fork, raw, err := c.fork(raw)
	if err != nil {
		return nil, err
	}
	if len(raw) == 0 {
		return c, nil
	}
	replaced := new(big.Int)
	for h := fork + 1; h < c.headers.n; h++ {
		replaced.Add(replaced, workOf(decodeCompact(bits(c.headers.at(h)))))
	}
	v := resume(c.params, c.headers.prefix(fork+1), new(big.Int).Sub(c.work, replaced))
	for ; len(raw) > 0; raw = raw[HeaderSize:] {
		if err := v.add(raw[:HeaderSize]); err != nil {
			return nil, err
		}
	}
	if v.work.Cmp(c.work) <= 0 {
		return nil, fmt.Errorf("branch from height %d to %d, chain to %d: %w", fork, v.headers.n-1, c.headers.n-1, ErrLessWork)
	}
	return v.chain(), nil
}

// fork returns the height of the last block that an extension has in common
// with the chain, and what of the extension comes after it.
func (c *Chain) fork(raw []byte) (int, []byte, error) {
	last := c.headers.n - 1
	if len(raw) == 0 {
		return last, nil, nil
	}
	parent := chainhash.Hash(prevBlock(raw))
	fork, ok := c.Height(parent)
	if !ok {
		return 0, nil, fmt.Errorf("first header follows unknown block %v: %w", parent, ErrUnconnected)
	}
	for len(raw) > 0 && fork < last && bytes.Equal(raw[:HeaderSize], c.headers.at(fork+1)) {
		fork, raw = fork+1, raw[HeaderSize:]
	}
	for _, pin := range c.params.Pins {
		if len(raw) > 0 && fork < pin.Height && pin.Height <= last {
			return 0, nil, &RuleError{Height: fork + 1, Rule: RulePin,
				Detail: fmt.Sprintf("branches off below the block pinned at height %d", pin.Height)}
		}
	}
	return fork, raw, nil
}

// Network returns the network that the chain is of. On a test network it is
// evidence of nothing (calpe.Network.IsTest).
func (c *Chain) Network() calpe.Network { return c.params.Network }

// Tip returns the height and the hash of the last block. The genesis block has
// height 0. The text form of the hash is byte-reversed hex, as Bitcoin shows it.
func (c *Chain) Tip() (height int, hash chainhash.Hash) { return c.headers.n - 1, c.tip }

// At returns the header at a height from 0 to the tip's; false for any other.
func (c *Chain) At(height int) (Header, bool) {
	if height < 0 || height >= c.headers.n {
		return Header{}, false
	}
	return parse(c.headers.at(height)), true
}

// Height returns the height of the block with a hash, or false when it is not
// in the chain. It looks from the tip down, about 10 ms for all of mainnet.
// A hash from text (byte-reversed hex) is read with chainhash.NewHashFromStr.
func (c *Chain) Height(hash chainhash.Hash) (int, bool) {
	if hash == c.tip {
		return c.headers.n - 1, true
	}
	for h := c.headers.n - 1; h > 0; h-- {
		if bytes.Equal(prevBlock(c.headers.at(h)), hash[:]) {
			return h - 1, true
		}
	}
	return 0, false
}

// Work returns the sum over all blocks of the hashes that each took on average,
// 2^256 / (target + 1). The result is the caller's own.
func (c *Chain) Work() *big.Int { return new(big.Int).Set(c.work) }

// EnoughWork reports whether the chain has the minimum work that is pinned for
// its network. It is true where none is pinned, as on all test networks.
func (c *Chain) EnoughWork() bool {
	return c.params.MinWork == nil || c.work.Cmp(c.params.MinWork) >= 0
}

// MedianTime returns the median of the times of the block at a height and of
// the ten before it (BIP113), in UTC; false when the height is not in the chain.
// It never decreases from block to block, and the next block's time is later
// than it, which makes it the time to order blocks by.
func (c *Chain) MedianTime(height int) (time.Time, bool) {
	if height < 0 || height >= c.headers.n {
		return time.Time{}, false
	}
	return time.Unix(int64(c.headers.medianTime(height)), 0).UTC(), true
}

// WriteTo writes the raw headers from the genesis block on, 80 bytes each: what
// Read reads. Making a file durable, and putting it in the place of an older
// one, is the caller's.
func (c *Chain) WriteTo(w io.Writer) (int64, error) {
	var written int64
	for _, chunk := range c.headers.chunks {
		n, err := w.Write(chunk)
		written += int64(n)
		if err != nil {
			return written, fmt.Errorf("write block headers: %w", err)
		}
	}
	return written, nil
}
