package ots_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"log"
	"os"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/headers"
	"github.com/calpe/calpe/receipt/ots"
)

func read(name string) []byte {
	data, err := os.ReadFile("../../docs/vectors/" + name)
	if err != nil {
		log.Fatal(err)
	}
	return data
}

// A receipt becomes a file that every OpenTimestamps client understands, and is
// verified like any other, with block headers from a file.
func ExampleFromReceipt() {
	r, err := receipt.Decode(read("receipts/certified.json"))
	if err != nil {
		log.Fatal(err)
	}
	file, err := ots.FromReceipt(r, "")
	if err != nil {
		log.Fatal(err)
	}
	data, err := file.Serialize()
	if err != nil {
		log.Fatal(err)
	}

	again, err := ots.Parse(data)
	if err != nil {
		log.Fatal(err)
	}
	params, err := headers.ParamsFor(calpe.Regtest)
	if err != nil {
		log.Fatal(err)
	}
	chain, err := headers.Read(bytes.NewReader(read("headers.bin")), params)
	if err != nil {
		log.Fatal(err)
	}
	digest := sha256.Sum256(read("document.txt"))
	report := ots.Verify(ots.Input{File: again, Digest: digest[:], Headers: chain})
	fmt.Println(again.Hash(), report.Existed.Status, "in block", report.Block.Height, "of", chain.Network())

	forged := sha256.Sum256([]byte("forged"))
	report = ots.Verify(ots.Input{File: again, Digest: forged[:], Headers: chain})
	fmt.Println("forged:", report.Existed.Status, report.Existed.Reason)
	// Output:
	// sha256 holds in block 5 of regtest
	// forged: refuted other-document
}
