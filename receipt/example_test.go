package receipt_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"log"
	"os"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/headers"
)

func read(name string) []byte {
	data, err := os.ReadFile("../docs/vectors/" + name)
	if err != nil {
		log.Fatal(err)
	}
	return data
}

// A citizen verifies a receipt with nothing but files: the document, the
// receipt, Bitcoin's block headers and the identity of the log.
func Example() {
	params, err := headers.ParamsFor(calpe.Regtest)
	if err != nil {
		log.Fatal(err)
	}
	chain, err := headers.Read(bytes.NewReader(read("headers.bin")), params)
	if err != nil {
		log.Fatal(err)
	}
	identity, err := receipt.ParseIdentity(read("identity.json"))
	if err != nil {
		log.Fatal(err)
	}
	r, err := receipt.Decode(read("receipts/certified.json"))
	if err != nil {
		log.Fatal(err)
	}
	report := receipt.Verify(receipt.Input{
		Digest:   sha256.Sum256(read("document.txt")),
		Receipt:  r,
		Headers:  chain,
		Identity: &identity,
	})
	fmt.Println("existed:", report.Existed.Status, "before", report.Block.Time, "±2 h, no evidential value:", report.TestNetwork())
	fmt.Println("in log:", report.InLog.Status, report.Origin)
	fmt.Println("certified:", report.Certified.Status, "by", report.Certification.Name)

	// A changed document.
	report = receipt.Verify(receipt.Input{Digest: sha256.Sum256([]byte("forged")), Receipt: r, Headers: chain, Identity: &identity})
	fmt.Println("forged:", report.Outcome(), report.Existed.Reason)

	// Output:
	// existed: holds before 2026-11-21 09:30:00 +0000 UTC ±2 h, no evidential value: true
	// in log: holds log.calpe.example
	// certified: holds by Registro Civil de Calp
	// forged: refuted other-document
}
