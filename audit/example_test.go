package audit_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"log"
	"strings"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/audit"
	"github.com/calpe/calpe/merkle"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/headers"
	"github.com/calpe/calpe/receipt/statement"
)

// published is a log as it is read: objects by path. Over HTTP it would be GET
// requests below /log/.
type published map[string][]byte

func (p published) Read(_ context.Context, path string, _ int64, _ bool) ([]byte, error) {
	if data, ok := p[path]; ok {
		return data, nil
	}
	return nil, fmt.Errorf("%s: %w", path, calpe.ErrNotFound)
}

// publish makes a log of an identity and two documents.
func publish() (receipt.Identity, published, error) {
	const origin = "notary.example/log"
	vkeys := map[string][]string{}
	var signer statement.Key
	for _, name := range []string{receipt.StatementKeyName(origin), receipt.AcknowledgementKeyName(origin), origin} {
		key, err := statement.GenerateKey(rand.Reader, name)
		if err != nil {
			return receipt.Identity{}, nil, err
		}
		vkeys[name], signer = []string{key.Verifier()}, key
	}
	params, err := headers.ParamsFor(calpe.Regtest)
	if err != nil {
		return receipt.Identity{}, nil, err
	}
	genesis, err := headers.Parse(params.Genesis[:])
	if err != nil {
		return receipt.Identity{}, nil, err
	}
	id := receipt.Identity{Origin: origin, Network: calpe.Regtest, Genesis: calpe.BlockHash(genesis.Hash), CheckpointKeys: vkeys[origin],
		AcknowledgementKeys: vkeys[receipt.AcknowledgementKeyName(origin)], StatementKeys: vkeys[receipt.StatementKeyName(origin)]}

	entries := []calpe.Entry{id.Entry(), {Index: 1, Commitment: calpe.Commitment{1}}, {Index: 2, Commitment: calpe.Commitment{2}}}
	var tile []byte
	var leaves []calpe.Hash
	for _, e := range entries {
		b := e.Bytes()
		leaf := merkle.LeafHash(b[:])
		leaves, tile = append(leaves, leaf), append(tile, leaf[:]...)
	}
	bundle, err := merkle.EncodeEntryBundle(merkle.Bundle{Width: 3}, entries)
	if err != nil {
		return receipt.Identity{}, nil, err
	}
	note, err := receipt.SignCheckpoint(signer, origin, 3, merkle.Root(leaves))
	return id, published{"checkpoint": note, "tile/0/000.p/3": tile, "tile/entries/000.p/3": bundle}, err
}

// Anybody with the identity of a log can check all of it.
func Example() {
	identity, objects, err := publish()
	if err != nil {
		log.Fatal(err)
	}
	run := func() {
		auditor, err := audit.New(audit.Config{Log: objects, Identity: identity})
		if err != nil {
			log.Fatal(err)
		}
		report, err := auditor.Run(context.Background())
		if err != nil {
			log.Fatal(err)
		}
		why, _, _ := strings.Cut(report.Text, ";")
		fmt.Println(report.Status, report.Reason, why)
	}
	run()
	objects["tile/entries/000.p/3"][80] ^= 1
	run()
	// Output:
	// holds  all 3 entries are in the log that the checkpoint signs
	// refuted entry-bundle entry 1 in tile/entries/000.p/3 isn't the one that the tile above it has the hash of
}
