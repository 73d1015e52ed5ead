package receipt

import (
	"bytes"
	"encoding/base64"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/merkle"
	"github.com/calpe/calpe/receipt/headers"
	"github.com/calpe/calpe/receipt/statement"
)

// A verification is one row of the table that TestVerify runs and that
// docs/vectors gives to writers of other verifiers.
type verification struct {
	Name     string
	Digest   calpe.Digest
	Receipt  string // its text
	Headers  string // name of a file of headers, see headerFiles; empty for none
	Identity string // "identity", "identity-other" or empty for none
	Depth    int
	Want     answers
}

// headerFiles are the chains of headers that verifications name.
func (w *world) headerFiles() map[string][]byte {
	other := bytes.Clone(w.raw[:anchorHeight*80])
	for height := anchorHeight; height <= tipHeight; height++ {
		other = append(other, mineHeader(other, height, doubleHash([]byte("another block")))...)
	}
	return map[string][]byte{
		"headers":          w.raw,
		"headers-deep":     w.raw[:(anchorHeight+6)*80],
		"headers-not-deep": w.raw[:(anchorHeight+5)*80],
		"headers-end":      w.raw[:anchorHeight*80],
		"headers-other":    other,
		"headers-calendar": w.calendarHeaders(),
		"headers-simnet":   genesis(w.tb, calpe.Simnet),
		"headers-mainnet":  genesis(w.tb, calpe.Mainnet),
	}
}

func (w *world) networkOf(headers string) calpe.Network {
	switch headers {
	case "headers-simnet":
		return calpe.Simnet
	case "headers-mainnet":
		return calpe.Mainnet
	}
	return calpe.Regtest
}

// unchecked writes a receipt without asking whether it holds.
func unchecked(tb testing.TB, r Receipt) string {
	tb.Helper()
	data, err := json.Marshal(r, jsontext.WithIndent("  "))
	if err != nil {
		tb.Fatal(err)
	}
	return string(data) + "\n"
}

const (
	ok       = "holds"
	noCert   = "not-asked no-certification"
	notYetCP = "not-yet no-checkpoint"
)

// all is the same answer to each question.
func all(status string) answers { return answers{status, status, status} }

// verifications is the table: each state, then each way to tamper with it.
func (w *world) verifications() []verification {
	return slices.Concat(w.stateCases(), w.documentCases(), w.anchorCases(), w.logCases(), w.certificationCases(), w.promiseCases(),
		w.malformedCases(), w.textCases(), w.timestampCases())
}

// verification is one row: the receipt of an entry, edited.
func (w *world) verification(name string, index int, want answers, edit func(v *verification, r *Receipt)) verification {
	w.tb.Helper()
	v := verification{Name: name, Digest: w.digests[index], Headers: "headers", Identity: "identity", Depth: DefaultDepth, Want: want}
	r := w.issue(index)
	if edit != nil {
		edit(&v, &r)
	}
	v.Receipt = unchecked(w.tb, r)
	return v
}

func (w *world) stateCases() []verification {
	headers := func(name string, depth int) func(*verification, *Receipt) {
		return func(v *verification, _ *Receipt) { v.Headers, v.Depth = name, depth }
	}
	unpinned := func(v *verification, _ *Receipt) { v.Identity = "" }
	return []verification{
		w.verification("certified", entryDocument, all(ok), nil),
		w.verification("anchored", entryPlain, answers{ok, ok, noCert}, nil),
		w.verification("last-anchored", entryFiller, answers{ok, ok, noCert}, nil),
		w.verification("checkpointed", entryLate, answers{"not-yet no-anchor", ok, noCert}, nil),
		w.verification("received", entryReceived, answers{notYetCP, notYetCP, noCert}, nil),
		w.verification("received-unpinned", entryReceived, answers{notYetCP, "not-asked no-identity", noCert}, unpinned),
		w.verification("unpinned", entryDocument, answers{ok, "not-asked no-identity", "not-asked no-identity"}, unpinned),
		w.verification("no-headers", entryDocument, answers{"not-asked no-headers", ok, ok}, headers("", 6)),
		w.verification("just-deep", entryPlain, answers{ok, ok, noCert}, headers("headers-deep", 6)),
		w.verification("not-deep", entryPlain, answers{"not-yet not-deep", ok, noCert}, headers("headers-not-deep", 6)),
		w.verification("less-deep-asked", entryPlain, answers{ok, ok, noCert}, headers("headers-not-deep", 5)),
		w.verification("deeper-asked", entryPlain, answers{"not-yet not-deep", ok, noCert}, headers("headers", 9)),
		w.verification("headers-end", entryPlain, answers{"not-yet headers-end", ok, noCert}, headers("headers-end", 6)),
	}
}

// documentCases tamper with what leads from the document to the tree.
func (w *world) documentCases() []verification {
	notInTree := answers{"refuted not-in-tree", "refuted not-in-tree", noCert}
	row := func(name string, want answers, edit func(v *verification, r *Receipt)) verification {
		return w.verification(name, entryPlain, want, edit)
	}
	return []verification{
		w.verification("changed-document", entryDocument, all("refuted other-document"),
			func(v *verification, _ *Receipt) { v.Digest[31] ^= 1 }),
		row("changed-document-and-receipt", notInTree, func(v *verification, r *Receipt) { v.Digest[0] ^= 1; r.Digest[0] ^= 1 }),
		row("changed-salt", notInTree, func(_ *verification, r *Receipt) { r.Salt[15] ^= 1 }),
		row("changed-index", notInTree, func(_ *verification, r *Receipt) { r.Index-- }),
		row("changed-path", notInTree, func(_ *verification, r *Receipt) { r.Path[0][7] ^= 0x10 }),
		row("short-path", notInTree, func(_ *verification, r *Receipt) { r.Path = r.Path[1:] }),
		row("long-path", notInTree, func(_ *verification, r *Receipt) { r.Path = append(r.Path, calpe.Hash{}) }),
		row("empty-path", notInTree, func(_ *verification, r *Receipt) { r.Path = Path{} }),
		row("longest-path", notInTree, func(_ *verification, r *Receipt) { r.Path = make(Path, 40) }),
	}
}

// anchorCases tamper with what leads from the checkpoint to the chain.
func (w *world) anchorCases() []verification {
	row := func(name, reason string, edit func(v *verification, r *Receipt)) verification {
		return w.verification(name, entryPlain, answers{"refuted " + reason, ok, noCert}, edit)
	}
	anchor := func(edit func(a *Anchor)) func(*verification, *Receipt) {
		return func(_ *verification, r *Receipt) { edit(r.Anchor) }
	}
	network := func(n calpe.Network) func(v *verification, r *Receipt) {
		return func(v *verification, r *Receipt) {
			r.Anchor.Network, r.Anchor.Genesis = n, doubleHash(genesis(w.tb, n))
			v.Headers = "headers-" + string(n)
		}
	}
	return []verification{
		row("changed-payload-size", "other-payload", anchor(func(a *Anchor) { a.Transaction[5+36+1+4+1+8+1+2+7] ^= 1 })),
		row("changed-payload-tag", "other-payload", anchor(func(a *Anchor) { a.Transaction[5+36+1+4+1+8+1+2] = 'c' })),
		row("payload-in-output-1", "other-payload", anchor(w.payloadSecond)),
		row("changed-transaction", "transaction-not-in-block", anchor(func(a *Anchor) { a.Transaction[0] = 1 })),
		row("changed-branch", "transaction-not-in-block", anchor(func(a *Anchor) { a.Branch[2][0] ^= 1 })),
		row("changed-position", "transaction-not-in-block", anchor(func(a *Anchor) { a.Position = 2 })),
		row("position-too-large", "transaction-not-in-block", anchor(func(a *Anchor) { a.Position += 8 })),
		row("shallow-branches", "transaction-not-in-block", anchor(func(a *Anchor) {
			a.Branch, a.CoinbaseBranch, a.Position = a.Branch[:2], a.CoinbaseBranch[:2], 3
		})),
		row("changed-coinbase", "coinbase-not-in-block", anchor(func(a *Anchor) { a.Coinbase[len(a.Coinbase)-1] = 1 })),
		row("changed-coinbase-branch", "coinbase-not-in-block", anchor(func(a *Anchor) { a.CoinbaseBranch[0][0] ^= 1 })),
		row("no-coinbase", "no-coinbase", anchor(func(a *Anchor) { a.Coinbase = w.blockTxs[1] })),
		row("changed-header-time", "not-in-chain", anchor(func(a *Anchor) { a.Header[68] ^= 1 })),
		row("changed-header-root", "transaction-not-in-block", anchor(func(a *Anchor) { a.Header[36] ^= 1 })),
		row("changed-height", "not-in-chain", anchor(func(a *Anchor) { a.Height++ })),
		row("height-zero", "not-in-chain", anchor(func(a *Anchor) { a.Height = 0 })),
		row("reorganised-away", "not-in-chain", func(v *verification, _ *Receipt) { v.Headers = "headers-other" }),
		w.verification("headers-of-another-network", entryPlain, answers{"refuted other-network", ok, noCert}, func(v *verification, _ *Receipt) { v.Headers = "headers-simnet" }),
		w.verification("copy-of-the-last-transaction", entryPlain, answers{"refuted transaction-not-in-block", ok, noCert},
			func(_ *verification, r *Receipt) { w.moveAnchorLast(r, 5) }),
		w.verification("last-transaction", entryPlain, answers{"refuted not-in-chain", ok, noCert},
			func(_ *verification, r *Receipt) { w.moveAnchorLast(r, 4) }),
		w.verification("too-little-work", entryPlain, answers{"not-yet too-little-work", "refuted other-network", noCert}, network(calpe.Mainnet)),
		w.verification("height-in-another-network", entryPlain, answers{"not-yet headers-end", "refuted other-network", noCert}, network(calpe.Simnet)),
	}
}

// payloadSecond makes the anchor one whose payload is in output 1.
func (w *world) payloadSecond(a *Anchor) {
	payload := w.anchor.Script()
	a.Transaction = rawTx(*w.id.FirstOutpoint, testOutput{99_000, payToNobody("anchor")}, testOutput{0, payload})
}

// moveAnchorLast puts the anchor at the end of a block with five transactions,
// and claims a position for it: 5 is that of its copy in Bitcoin's odd level.
func (w *world) moveAnchorLast(r *Receipt, position uint32) {
	txs := slices.Clone(w.blockTxs)
	txs[3], txs[4] = txs[4], txs[3]
	a := w.anchorOf(txs, 4)
	root := txRoot(txs)
	copy(r.Anchor.Header[36:], root[:])
	r.Anchor.Position, r.Anchor.Branch, r.Anchor.CoinbaseBranch = position, a.Branch, a.CoinbaseBranch
}

// logCases tamper with whose log it is.
func (w *world) logCases() []verification {
	row := func(name, reason string, edit func(v *verification, r *Receipt)) verification {
		return w.verification(name, entryPlain, answers{ok, "refuted " + reason, noCert}, edit)
	}
	resign := func(name, which string) func(*verification, *Receipt) {
		return func(_ *verification, r *Receipt) {
			msg, err := SignCheckpoint(testKey(w.tb, name, which), name, anchoredSize, w.anchor.Root)
			if err != nil {
				w.tb.Fatal(err)
			}
			r.Checkpoint = string(msg)
		}
	}
	return []verification{
		row("other-deployment", "other-log", func(v *verification, _ *Receipt) { v.Identity = "identity-other" }),
		row("changed-log", "other-log", func(_ *verification, r *Receipt) { r.Log[0] ^= 1 }),
		row("checkpoint-of-another-log", "checkpoint-signature", resign("log.altea.example", "")),
		row("checkpoint-by-another-key", "checkpoint-signature", resign(w.id.Origin, "forged")),
		row("checkpoint-signature-changed", "checkpoint-signature", func(_ *verification, r *Receipt) {
			r.Checkpoint = changeSignature(r.Checkpoint)
		}),
		w.verification("checkpoint-size-changed", entryPlain, answers{"refuted not-in-tree", "refuted not-in-tree", noCert},
			func(_ *verification, r *Receipt) { r.Checkpoint = strings.Replace(r.Checkpoint, "\n7\n", "\n9\n", 1) }),
		w.verification("checkpoint-size-same-depth", entryPlain, answers{"refuted other-payload", "refuted checkpoint-signature", noCert},
			func(_ *verification, r *Receipt) { r.Checkpoint = strings.Replace(r.Checkpoint, "\n7\n", "\n8\n", 1) }),
		w.verification("checkpoint-cosigned", entryPlain, answers{ok, ok, noCert}, func(_ *verification, r *Receipt) {
			r.Checkpoint += "— witness.example " + base64.StdEncoding.EncodeToString(make([]byte, 76)) + "\n"
		}),
	}
}

// changeSignature flips a bit of the signature in the last line of a note.
func changeSignature(text string) string {
	head, encoded, _ := strings.Cut(strings.TrimSuffix(text, "\n"), "— ")
	name, encoded, _ := strings.Cut(encoded, " ")
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		panic(err)
	}
	raw[20] ^= 4
	return head + "— " + name + " " + base64.StdEncoding.EncodeToString(raw) + "\n"
}

// certificationCases tamper with what the agency and the operator said. The
// document's own evidence holds in all of them.
func (w *world) certificationCases() []verification {
	row := func(name, reason string, edit func(c *Certification)) verification {
		return w.verification(name, entryDocument, answers{ok, ok, "refuted " + reason}, func(_ *verification, r *Receipt) { edit(r.Certification) })
	}
	sign := func(key statement.Key, body statement.Body) statement.Signed {
		s, err := statement.Sign(key, body)
		if err != nil {
			w.tb.Fatal(err)
		}
		return s
	}
	certify := func(key statement.Key, edit func(*statement.Certification)) func(*Certification) {
		body := w.certification()
		edit(&body)
		return func(c *Certification) { c.Statement = sign(key, body) }
	}
	register := func(edit func(*statement.Agency)) func(*Certification) {
		body := w.registration()
		edit(&body)
		return func(c *Certification) {
			c.Agency.Statement = sign(testKey(w.tb, StatementKeyName(w.id.Origin), ""), body)
		}
	}
	forger := testKey(w.tb, "registry-of-calpe", "forged")
	stranger := testKey(w.tb, "registry-of-altea", "")
	return []verification{
		row("certifies-another-document", "certifies-other-document", certify(w.agency, func(c *statement.Certification) { c.Digest[0] ^= 1 })),
		row("agency-of-another-log", "other-log", register(func(a *statement.Agency) { a.Log[0] ^= 1 })),
		row("certification-by-another-agency", "other-agency", certify(stranger, func(c *statement.Certification) { c.Agency = stranger.Name() })),
		row("certification-by-another-key", "certification-signature", certify(forger, func(*statement.Certification) {})),
		row("certification-signature-changed", "certification-signature", func(c *Certification) { c.Statement = changeStatement(w.tb, c.Statement) }),
		row("certification-before-registration", "certification-order", func(c *Certification) { c.Index, c.Agency.Index = c.Agency.Index, c.Index }),
		row("certification-is-the-registration's-entry", "certification-order", func(c *Certification) { c.Index = c.Agency.Index }),
		row("certification-changed-subject", "certification-not-in-tree", certify(w.agency, func(c *statement.Certification) { c.Subject = "REG-2026-000124" })),
		row("certification-changed-validity", "certification-not-in-tree", certify(w.agency, func(c *statement.Certification) { c.ValidUntil = "" })),
		row("certification-changed-salt", "certification-not-in-tree", func(c *Certification) { c.Salt[0] ^= 1 }),
		row("certification-changed-path", "certification-not-in-tree", func(c *Certification) { c.Path[1][0] ^= 1 }),
		row("certification-changed-index", "certification-not-in-tree", func(c *Certification) { c.Index++ }),
		row("agency-changed-name", "agency-not-in-tree", register(func(a *statement.Agency) { a.Name = "Registro Civil de Altea" })),
		row("agency-changed-path", "agency-not-in-tree", func(c *Certification) { c.Agency.Path = c.Agency.Path[:1] }),
		row("agency-changed-salt", "agency-not-in-tree", func(c *Certification) { c.Agency.Salt[0] ^= 1 }),
		w.forgedRegistration(forger),
		w.verification("certified-in-another-deployment", entryDocument, answers{ok, "refuted other-log", "refuted other-log"},
			func(v *verification, _ *Receipt) { v.Identity = "identity-other" }),
	}
}

func changeStatement(tb testing.TB, s statement.Signed) statement.Signed {
	tb.Helper()
	text := string(s.Bytes())
	at := strings.Index(text, `"signature":"`) + 20
	c := byte('A')
	if text[at] == c {
		c = 'B'
	}
	changed, err := statement.Parse([]byte(text[:at] + string(c) + text[at+1:]))
	if err != nil {
		tb.Fatal(err)
	}
	return changed
}

// forgedRegistration is a log whose entries are all there, though no key of the
// operator signed the registration: somebody notarized it as a document.
func (w *world) forgedRegistration(forger statement.Key) verification {
	leaves, digests, signed := w.leaves, w.digests, w.signed
	w.leaves, w.digests, w.signed = slices.Clone(leaves), slices.Clone(digests), map[int]statement.Signed{}
	defer func() { w.leaves, w.digests, w.signed = leaves, digests, signed }()
	w.sign(entryAgency, forger, w.registration())
	w.signed[entryCertification] = signed[entryCertification]
	b := calpe.Entry{Index: entryAgency, Commitment: calpe.Commit(w.digests[entryAgency], w.salts[entryAgency])}.Bytes()
	w.leaves[entryAgency] = merkle.LeafHash(b[:])

	e := w.evidence(entryDocument)
	r, err := Issue(Evidence{Identity: e.Identity, Digest: e.Digest, Salt: e.Salt, Index: e.Index, Checkpoint: e.Checkpoint, Path: e.Path})
	if err != nil {
		w.tb.Fatal(err)
	}
	c := e.Certification
	r.Certification = &Certification{c.Statement, c.Salt, c.Index, c.Path, Registration{c.Agency, c.AgencySalt, c.AgencyIndex, c.AgencyPath}}
	return verification{Name: "registration-by-somebody", Digest: e.Digest, Receipt: unchecked(w.tb, r), Headers: "headers",
		Identity: "identity", Depth: DefaultDepth, Want: answers{"not-yet no-anchor", ok, "refuted agency-signature"}}
}

// promiseCases tamper with a receipt that has only an acknowledgement.
func (w *world) promiseCases() []verification {
	row := func(name string, existed, inLog string, edit func(v *verification, r *Receipt)) verification {
		return w.verification("received-"+name, entryReceived, answers{existed, inLog, noCert}, edit)
	}
	resign := func(which string, edit func(*Acknowledgement)) func(*verification, *Receipt) {
		return func(_ *verification, r *Receipt) {
			a, err := ReadAcknowledgement(w.acknowledgementNote())
			if err != nil {
				w.tb.Fatal(err)
			}
			edit(&a)
			msg, err := SignAcknowledgement(testKey(w.tb, AcknowledgementKeyName(w.id.Origin), which), a)
			if err != nil {
				w.tb.Fatal(err)
			}
			r.Acknowledgement.Note = string(msg)
		}
	}
	const other, forged, elsewhere = "refuted not-acknowledged", "refuted acknowledgement-signature", "refuted other-log"
	return []verification{
		row("changed-document", "refuted other-document", "refuted other-document", func(v *verification, _ *Receipt) { v.Digest[0] ^= 1 }),
		row("changed-salt", other, other, func(_ *verification, r *Receipt) { r.Salt[0] ^= 1 }),
		row("changed-path", other, other, func(_ *verification, r *Receipt) { r.Acknowledgement.Path[0][0] ^= 1 }),
		row("changed-index", other, other, func(_ *verification, r *Receipt) { r.Index++ }),
		row("index-before-group", other, other, func(_ *verification, r *Receipt) { r.Index = groupFirst - 1 }),
		row("index-behind-group", other, other, func(_ *verification, r *Receipt) { r.Index = logSize }),
		row("of-another-log", elsewhere, elsewhere, resign("", func(a *Acknowledgement) { a.Log[0] ^= 1 })),
		row("by-another-key", notYetCP, forged, resign("forged", func(*Acknowledgement) {})),
		row("signature-changed", notYetCP, forged, func(_ *verification, r *Receipt) {
			r.Acknowledgement.Note = changeSignature(r.Acknowledgement.Note)
		}),
		row("deadline-changed", notYetCP, forged, func(_ *verification, r *Receipt) {
			r.Acknowledgement.Note = strings.Replace(r.Acknowledgement.Note, "10:30:00", "10:30:01", 1)
		}),
		row("other-deployment", notYetCP, elsewhere, func(v *verification, _ *Receipt) { v.Identity = "identity-other" }),
	}
}

// malformedCases are receipts whose members are in themselves, or together, not
// what the format allows.
func (w *world) malformedCases() []verification {
	row := func(name string, edit func(r *Receipt)) verification {
		return w.verification("malformed-"+name, entryDocument, all("refuted malformed"), func(_ *verification, r *Receipt) { edit(r) })
	}
	anchor := func(name string, edit func(a *Anchor)) verification {
		return row(name, func(r *Receipt) { edit(r.Anchor) })
	}
	return []verification{
		row("type", func(r *Receipt) { r.Type = "calpe/receipt/v2" }),
		row("index-too-large", func(r *Receipt) { r.Index = calpe.MaxLogSize }),
		row("index-at-size", func(r *Receipt) { r.Index = anchoredSize }),
		row("acknowledgement-and-checkpoint", func(r *Receipt) { r.Acknowledgement = w.issuedPromise() }),
		row("neither", func(r *Receipt) { r.Checkpoint, r.Path, r.Anchor, r.Certification = "", nil, nil, nil }),
		row("no-path", func(r *Receipt) { r.Path = nil }),
		row("path-too-long", func(r *Receipt) { r.Path = make(Path, 41) }),
		row("checkpoint-no-signature", func(r *Receipt) { r.Checkpoint, _, _ = strings.Cut(r.Checkpoint, "— ") }),
		row("checkpoint-leading-zero", func(r *Receipt) { r.Checkpoint = strings.Replace(r.Checkpoint, "\n7\n", "\n07\n", 1) }),
		row("checkpoint-fourth-line", func(r *Receipt) { r.Checkpoint = strings.Replace(r.Checkpoint, "\n\n", "\nextension\n\n", 1) }),
		row("checkpoint-stray-bits", func(r *Receipt) { r.Checkpoint = strayBits(r.Checkpoint) }),
		row("checkpoint-too-large", func(r *Receipt) { r.Checkpoint += strings.Repeat("— w.example AAAAAAAA\n", 2000) }),
		row("promise-of-checkpointed", func(r *Receipt) { r.Acknowledgement, r.Checkpoint, r.Path = w.issuedPromise(), "", nil }),
		row("certification-is-an-agency", func(r *Receipt) { r.Certification.Statement = r.Certification.Agency.Statement }),
		row("agency-is-a-certification", func(r *Receipt) { r.Certification.Agency.Statement = r.Certification.Statement }),
		row("certification-no-path", func(r *Receipt) { r.Certification.Path = nil }),
		row("agency-no-path", func(r *Receipt) { r.Certification.Agency.Path = nil }),
		row("certification-above-size", func(r *Receipt) { r.Certification.Index = anchoredSize }),
		anchor("network-unknown", func(a *Anchor) { a.Network = "test" }),
		anchor("genesis-of-another-network", func(a *Anchor) { a.Genesis = doubleHash(genesis(w.tb, calpe.Simnet)) }),
		anchor("header-79-bytes", func(a *Anchor) { a.Header = a.Header[:79] }),
		anchor("header-81-bytes", func(a *Anchor) { a.Header = append(a.Header, 0) }),
		anchor("position-of-coinbase", func(a *Anchor) { a.Position = 0 }),
		anchor("branch-too-long", func(a *Anchor) { a.Branch, a.CoinbaseBranch = make(Branch, 33), make(Branch, 33) }),
		anchor("branches-of-two-depths", func(a *Anchor) { a.CoinbaseBranch = a.CoinbaseBranch[:2] }),
		anchor("inner-node-as-transaction", w.innerNode),
		anchor("inner-node-as-coinbase", func(a *Anchor) { a.Coinbase = make(Hex, 64) }),
		anchor("transaction-truncated", func(a *Anchor) { a.Transaction = a.Transaction[:len(a.Transaction)-1] }),
		anchor("transaction-trailing", func(a *Anchor) { a.Transaction = append(a.Transaction, 0) }),
		anchor("transaction-with-witness", func(a *Anchor) {
			a.Transaction = slices.Concat(a.Transaction[:4], Hex{0, 1}, a.Transaction[4:len(a.Transaction)-4], Hex{0}, a.Transaction[len(a.Transaction)-4:])
		}),
		anchor("transaction-empty", func(a *Anchor) { a.Transaction = nil }),
		anchor("transaction-long-count", func(a *Anchor) {
			a.Transaction = slices.Concat(a.Transaction[:4], Hex{0xfd, 1, 0}, a.Transaction[5:])
		}),
		anchor("transaction-too-large", func(a *Anchor) { a.Transaction = bigTransaction(MaxTransactionSize + 1) }),
	}
}

// strayBits makes the base64 of a note's last signature one that no encoder writes.
func strayBits(text string) string {
	i := strings.LastIndex(text, "=\n") - 1
	return text[:i] + string(text[i]+1) + text[i+1:]
}

func (w *world) issuedPromise() *Promise { return w.issue(entryReceived).Acknowledgement }

// innerNode claims that two hashes of the block's tree are a transaction.
func (w *world) innerNode(a *Anchor) {
	ids := txIDs(w.blockTxs)
	a.Transaction = slices.Concat(ids[2][:], ids[3][:])
	a.Branch, a.CoinbaseBranch, a.Position = a.Branch[1:], a.CoinbaseBranch[1:], 1
}

// bigTransaction has one output that fills it up to n bytes.
func bigTransaction(n int) []byte {
	tx := rawTx(calpe.Outpoint{Vout: 1}, testOutput{script: make([]byte, 1)})
	script := n - (len(tx) - 1 + 4)
	at := len(tx) - 4 - 2
	long := slices.Concat(tx[:at], []byte{0xfe, byte(script), byte(script >> 8), byte(script >> 16), byte(script >> 24)}, make([]byte, script), tx[len(tx)-4:])
	return long
}

// textCases change the text of a receipt that holds.
func (w *world) textCases() []verification {
	text := unchecked(w.tb, w.issue(entryDocument))
	v := w.verification("", entryDocument, all("refuted malformed"), nil)
	row := func(name, old, replacement string) verification {
		if strings.Count(text, old) < 1 {
			w.tb.Fatalf("%s: the receipt has no %q", name, old)
		}
		v.Name, v.Receipt = "text-"+name, strings.Replace(text, old, replacement, 1)
		return v
	}
	log := w.id.Hash().String()
	rows := []verification{
		row("duplicate-member", `"index": 3`, `"index": 3, "index": 3`),
		row("duplicate-member-inside", `"position": 3`, `"position": 3, "position": 2`),
		row("duplicate-in-statement", `"issued":`, `"issued": "2026-11-20", "issued":`),
		row("unknown-member", `"index": 3`, `"index": 3, "comment": "mine"`),
		row("unknown-member-inside", `"position": 3`, `"position": 3, "fee": 1`),
		row("unknown-in-statement", `"issued":`, `"withdrawn": 0, "issued":`),
		row("case-folded-member", `"index": 3`, `"Index": 3`),
		row("case-folded-extra-member", `"index": 3`, `"index": 3, "INDEX": 4`),
		row("missing-member", `"index": 3,`, ``),
		row("null-member", `"index": 3`, `"index": null`),
		row("null-certification", `"certification": {`, `"certification": null, "x": {`),
		row("boolean", `"index": 3`, `"index": true`),
		row("fraction", `"index": 3`, `"index": 3.0`),
		row("exponent", `"index": 3`, `"index": 3e0`),
		row("negative", `"index": 3`, `"index": -3`),
		row("negative-zero", `"index": 3`, `"index": -0`),
		row("huge-number", `"index": 3`, `"index": 9007199254740992`),
		row("number-as-text", `"index": 3`, `"index": "3"`),
		row("height-above-32-bits", `"height": 5`, `"height": 4294967301`),
		row("upper-case-hex", log, strings.ToUpper(log)),
		row("short-hex", log, log[:62]),
		row("odd-hex", `"header": "`, `"header": "0`),
		row("url-base64", `"branch": "`, `"branch": "_`),
		row("base64-without-padding", `=",`, `",`),
		row("base64-with-line-break", `"branch": "`, `"branch": "\n`),
		row("trailing-comma", `"index": 3,`, `"index": 3,,`),
		row("comment", `"index": 3,`, `"index": 3, // mine`),
		row("byte-order-mark", "{", "\ufeff{"),
		row("invalid-utf8", `birth certificate`, "birth \xff certificate"),
		row("lone-surrogate", `birth certificate`, `birth \ud800 certificate`),
		row("control-in-statement", `birth certificate`, `birth \u001b certificate`),
		row("bidi-in-statement", `birth certificate`, `birth \u202e certificate`),
		row("bad-date", `2026-11-20`, `2026-11-31`),
		row("ends-before-issued", `2036-11-19`, `2026-11-19`),
		row("empty-valid-until", `2036-11-19`, ``),
		row("statement-as-text", `"statement": {`, `"statement": "", "x": {`),
		row("too-large", "{", "{"+strings.Repeat(" ", MaxSize)),
		row("too-deep", `"index": 3`, `"index": `+strings.Repeat("[", 40)+strings.Repeat("]", 40)),
	}
	v.Name, v.Receipt = "text-empty", ""
	rows = append(rows, v)
	v.Name, v.Receipt = "text-array", "["+text+"]"
	rows = append(rows, v)
	v.Name, v.Receipt = "text-trailing-value", text+"{}"
	rows = append(rows, v)
	v.Name, v.Receipt = "text-truncated", text[:len(text)/2]
	rows = append(rows, v)
	v.Want = all(ok)
	v.Name, v.Receipt = "text-spaced", "\n\t"+strings.ReplaceAll(text, "\n", "\r\n\t ")+"\n"
	rows = append(rows, v)
	compact := jsontext.Value(text)
	if err := compact.Canonicalize(); err != nil {
		w.tb.Fatal(err)
	}
	v.Name, v.Receipt = "text-canonical", string(compact)
	return append(rows, v)
}

// verify runs a row.
func (w *world) verify(v verification, chains map[string]*headers.Chain, identities map[string]*Identity) Report {
	r, err := Decode([]byte(v.Receipt))
	if err != nil {
		return Malformed(err)
	}
	return Verify(Input{Digest: v.Digest, Receipt: r, Headers: chains[v.Headers], Identity: identities[v.Identity], Depth: v.Depth})
}

func (w *world) chains() map[string]*headers.Chain {
	chains := map[string]*headers.Chain{}
	for name, raw := range w.headerFiles() {
		chains[name] = readChainOf(w.tb, w.networkOf(name), raw)
	}
	return chains
}

func (w *world) identities() map[string]*Identity {
	other := newIdentity(w.tb, "log.altea.example")
	return map[string]*Identity{"identity": &w.id, "identity-other": &other}
}

func TestVerify(t *testing.T) {
	w := newWorld(t, testOrigin)
	chains, identities := w.chains(), w.identities()
	seen := map[string]bool{}
	for _, v := range w.verifications() {
		t.Run(v.Name, func(t *testing.T) {
			if seen[v.Name] {
				t.Fatal("two rows have this name")
			}
			seen[v.Name] = true
			report := w.verify(v, chains, identities)
			if d := cmp.Diff(v.Want, answersOf(report)); d != "" {
				t.Errorf("verdicts (-want +got):\n%s\n%s", d, report.Existed.Text)
			}
			for _, verdict := range []Verdict{report.Existed, report.InLog, report.Certified} {
				if verdict.Text == "" {
					t.Error("a verdict has no sentence")
				}
				if testing.Verbose() && verdict.Status != Holds {
					t.Log(verdict.Text)
				}
			}
		})
	}
}
