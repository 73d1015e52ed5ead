package ots

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/headers"
)

// Reasons that only an OpenTimestamps file gives; the others are those of
// package receipt.
const (
	ReasonPending     receipt.Reason = "pending"      // not yet: a calendar has the rest, or will have it
	ReasonOtherNotary receipt.Reason = "other-notary" // not asked: not an attestation by Bitcoin
)

// Input is what a verifier has.
type Input struct {
	File    DetachedFile
	Digest  []byte         // of the document, by the file's hash ([Tag.NewHash])
	Headers *headers.Chain // a verified chain; nil if there is none
	Depth   int            // blocks that are asked for; 0 means [receipt.DefaultDepth]
}

// Report is what a file proves.
type Report struct {
	// Existed holds if one attestation does: each is a proof by itself. Else it is
	// refuted if one is, else not yet if one is.
	Existed receipt.Verdict `json:"existed"`
	Block   *Block          `json:"block,omitempty"`        // the lowest whose attestation holds
	Results []Result        `json:"attestations,omitempty"` // in the order of the file
}

// Result is what one attestation is worth.
type Result struct {
	Attestation Attestation `json:"attestation"`
	receipt.Verdict
	Block *Block `json:"block,omitempty"` // if it stands in the chain of headers
}

// Block is the block that fixes the time.
type Block struct {
	Network calpe.Network   `json:"network"` // of the headers; the file doesn't say
	Height  int             `json:"height"`
	Hash    calpe.BlockHash `json:"hash"`
	// Time is the header's: good to about two hours, for a miner may set it after the
	// median of the last 11 blocks and up to two hours ahead.
	Time  time.Time `json:"time"`
	Depth int       `json:"depth"` // blocks from it to the tip, itself included
	Asked int       `json:"asked"` // depth that was asked for
	Tip   int       `json:"tip"`   // height of the last header
	Test  bool      `json:"test"`  // of a test network: no evidential value
}

// Verify tells whether the document existed, and before when. It never fails,
// panics or contacts anybody (I9).
func Verify(in Input) Report {
	f := in.File
	if f.timestamp.root == nil {
		return Report{Existed: receipt.Verdict{Status: receipt.Refuted, Reason: receipt.ReasonMalformed, Text: "There is no timestamp."}}
	}
	if string(in.Digest) != f.timestamp.message {
		return Report{Existed: receipt.Verdict{Status: receipt.Refuted, Reason: receipt.ReasonOtherDocument,
			Text: fmt.Sprintf("The file is about another document: its %s is %x, the document's is %x.", f.hash, f.timestamp.message, in.Digest)}}
	}
	r := Report{Results: Check(f.timestamp, in.Headers, in.Depth)}
	best := r.Results[0] // there is at least one: no node is empty
	for _, next := range r.Results[1:] {
		if next.better(best) {
			best = next
		}
	}
	r.Existed = best.Verdict
	if best.Status == receipt.Holds {
		r.Block = best.Block
	}
	return r
}

// Malformed is the report on what [Parse] refuses.
func Malformed(err error) Report {
	return Report{Existed: receipt.Verdict{Status: receipt.Refuted, Reason: receipt.ReasonMalformed,
		Text: fmt.Sprintf("This is not an OpenTimestamps file that can be read: %v.", err)}}
}

// WriteText writes the report in plain words: the verdict, and where there are
// several attestations a line for each, but for what doesn't matter: a calendar
// that has the rest of a file that holds.
func (r Report) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Existed     %-9s  %s\n", answer(r.Existed), r.Existed.Text)
	if lines := r.lines(); len(lines) > 1 {
		b.WriteString(strings.Join(lines, ""))
	}
	if r.Block != nil && r.Block.Test {
		fmt.Fprintf(&b, "TEST NETWORK %s: no evidential value. Anybody can make such a block.\n", r.Block.Network)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// lines are what matters of the attestations, each once; what is said of the
// whole file isn't said again.
func (r Report) lines() (lines []string) {
	seen := map[string]bool{}
	for _, result := range r.Results {
		if result.Reason == ReasonPending && r.Existed.Status == receipt.Holds {
			continue
		}
		line := fmt.Sprintf("  %-9s  %s", answer(result.Verdict), result.Attestation)
		if result.Text != r.Existed.Text {
			line += ": " + result.Text
		}
		if !seen[line] {
			seen[line] = true
			lines = append(lines, line+"\n")
		}
	}
	return lines
}

func answer(v receipt.Verdict) string {
	return strings.ToUpper(strings.ReplaceAll(string(v.Status), "-", " "))
}

// better reports whether r says more than s about whether a document existed: it
// holds, and in a lower block; else it refutes; else it may hold later.
func (r Result) better(s Result) bool {
	order := []receipt.Status{receipt.Holds, receipt.Refuted, receipt.NotYet, receipt.NotAsked}
	if r.Status == receipt.Holds && s.Status == receipt.Holds {
		return r.Block.Height < s.Block.Height
	}
	return slices.Index(order, r.Status) < slices.Index(order, s.Status)
}

// Check tells what each attestation of a timestamp is worth, in its order. With
// no chain of headers (nil) nothing holds; a depth of 0 means
// [receipt.DefaultDepth]. It says nothing of what the message is.
func Check(t Timestamp, chain *headers.Chain, depth int) []Result {
	if depth <= 0 {
		depth = receipt.DefaultDepth
	}
	var results []Result
	t.walk(func(n *node, message []byte) bool {
		for _, a := range n.attestations {
			results = append(results, check(message, a, chain, depth))
		}
		return true
	})
	return results
}

func check(message []byte, a Attestation, chain *headers.Chain, depth int) Result {
	if height, ok := a.Block(); ok {
		v, b := checkBlock(message, height, chain, depth)
		return Result{a, v, b}
	}
	if uri, ok := a.Calendar(); ok {
		return Result{Attestation: a, Verdict: receipt.Verdict{Status: receipt.NotYet, Reason: ReasonPending,
			Text: fmt.Sprintf("The calendar %s had taken it when this was written: ask it for the rest.", uri)}}
	}
	return Result{Attestation: a, Verdict: receipt.Verdict{Status: receipt.NotAsked, Reason: ReasonOtherNotary,
		Text: fmt.Sprintf("It is attested by something else than Bitcoin (%s), which isn't verified here.", a)}}
}

// checkBlock: the message is the Merkle root of the block at that height, deep
// enough in the chain.
func checkBlock(message []byte, height uint64, chain *headers.Chain, depth int) (receipt.Verdict, *Block) {
	if len(message) != calpe.HashSize {
		return receipt.Verdict{Status: receipt.Refuted, Reason: receipt.ReasonNotInChain,
			Text: fmt.Sprintf("It leads to %d bytes, which are no block's Merkle root.", len(message))}, nil
	}
	if chain == nil {
		return receipt.Verdict{Status: receipt.NotAsked, Reason: receipt.ReasonNoHeaders,
			Text: fmt.Sprintf("It leads to the Merkle root %s of block %d, but no chain of headers was given to find it in.", calpe.BlockHash(message), height)}, nil
	}
	if !chain.EnoughWork() {
		return receipt.Verdict{Status: receipt.NotYet, Reason: receipt.ReasonTooLittleWork,
			Text: "The chain of headers has less work than the network had when this program was made: it is incomplete, or not the chain that the world knows."}, nil
	}
	tip, _ := chain.Tip()
	if height > uint64(tip) {
		return receipt.Verdict{Status: receipt.NotYet, Reason: receipt.ReasonHeadersEnd,
			Text: fmt.Sprintf("The headers end at block %d, before block %d: fetch newer ones.", tip, height)}, nil
	}
	h, _ := chain.At(int(height))
	if !bytes.Equal(message, h.MerkleRoot[:]) {
		return receipt.Verdict{Status: receipt.Refuted, Reason: receipt.ReasonNotInChain,
			Text: fmt.Sprintf("It leads to the Merkle root %s, block %d of %s has %s: it never was in this chain, or was reorganised away.",
				calpe.BlockHash(message), height, chain.Network(), h.MerkleRoot)}, nil
	}
	b := &Block{Network: chain.Network(), Height: int(height), Hash: calpe.BlockHash(h.Hash), Time: h.Time,
		Depth: tip - int(height) + 1, Asked: depth, Tip: tip, Test: chain.Network().IsTest()}
	return b.verdict(), b
}

// verdict on an attestation whose block is in the chain.
func (b *Block) verdict() receipt.Verdict {
	if b.Depth < b.Asked {
		return receipt.Verdict{Status: receipt.NotYet, Reason: receipt.ReasonNotDeep,
			Text: fmt.Sprintf("It is in block %d of %s, %d of the %d blocks deep that are asked for: wait, or fetch newer headers.", b.Height, b.Network, b.Depth, b.Asked)}
	}
	text := fmt.Sprintf("before %s, give or take two hours: in block %d of %s (%s), %d deep.",
		b.Time.UTC().Format(time.DateTime+" MST"), b.Height, b.Network, b.Hash, b.Depth)
	if b.Test {
		text += " A block of a test network has no evidential value."
	}
	return receipt.Verdict{Status: receipt.Holds, Text: text}
}
