package statement_test

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log"

	"github.com/calpe/calpe/receipt/statement"
)

// An agency certifies a document with a key that never leaves it. What comes
// out is notarized like a document: by its digest.
func ExampleSign() {
	key, err := statement.GenerateKey(rand.Reader, "land-registry")
	if err != nil {
		log.Fatal(err)
	}
	signed, err := statement.Sign(key, statement.Certification{
		Agency: "land-registry", Digest: sha256.Sum256([]byte("Plot 7/12 belongs to Ana.\n")),
		DocumentType: "deed", Subject: "plot 7/12", Issued: "2026-11-21",
	})
	if err != nil {
		log.Fatal(err)
	}
	read, err := statement.Parse(signed.Bytes())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("by the agency's key:", read.Verify(key.Verifier()) == nil, read.Digest() == signed.Digest())

	other, err := statement.GenerateKey(rand.Reader, "land-registry")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("by another of that name:", !errors.Is(read.Verify(other.Verifier()), statement.ErrSignature))
	// Output:
	// by the agency's key: true true
	// by another of that name: false
}
