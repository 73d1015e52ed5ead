package headers_test

import (
	"bytes"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt/headers"
)

// A file of raw headers is all that is needed, and nothing in it is believed.
func ExampleRead() {
	raw, err := os.ReadFile("../../docs/vectors/headers.bin")
	if err != nil {
		log.Fatal(err)
	}
	params, err := headers.ParamsFor(calpe.Regtest)
	if err != nil {
		log.Fatal(err)
	}
	chain, err := headers.Read(bytes.NewReader(raw), params)
	if err != nil {
		log.Fatal(err)
	}
	height, _ := chain.Tip()
	block, _ := chain.At(5)
	fmt.Println(height, "blocks on the genesis block of", chain.Network())
	fmt.Println("block 5 says", block.Time.Format(time.DateTime))

	raw[5*headers.HeaderSize+36] ^= 1 // of its Merkle root
	_, err = headers.Read(bytes.NewReader(raw), params)
	if broken, ok := errors.AsType[*headers.RuleError](err); ok {
		fmt.Println("changed: block", broken.Height, "breaks the rule of", broken.Rule)
	}
	// Output:
	// 12 blocks on the genesis block of regtest
	// block 5 says 2026-11-21 09:30:00
	// changed: block 5 breaks the rule of work
}

// A chain may be made to have a block that one knows from elsewhere.
func ExampleParams() {
	raw, err := os.ReadFile("../../docs/vectors/headers.bin")
	if err != nil {
		log.Fatal(err)
	}
	params, err := headers.ParamsFor(calpe.Regtest)
	if err != nil {
		log.Fatal(err)
	}
	known, err := headers.Parse(raw[5*headers.HeaderSize:][:headers.HeaderSize])
	if err != nil {
		log.Fatal(err)
	}
	params.Pins = append(params.Pins, headers.Pin{Height: 5, Hash: known.Hash})
	for _, name := range []string{"headers.bin", "headers-other.bin"} {
		raw, err := os.ReadFile("../../docs/vectors/" + name)
		if err != nil {
			log.Fatal(err)
		}
		_, err = headers.Read(bytes.NewReader(raw), params)
		broken, _ := errors.AsType[*headers.RuleError](err)
		fmt.Println(name, err == nil, broken != nil && broken.Rule == headers.RulePin)
	}
	// Output:
	// headers.bin true false
	// headers-other.bin false true
}
