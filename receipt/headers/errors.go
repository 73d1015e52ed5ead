package headers

import (
	"errors"
	"fmt"
)

// What can be wrong beyond a single header. All are wrapped in errors that say more.
var (
	// ErrTruncated means that the bytes end within a header.
	ErrTruncated = errors.New("truncated block header")
	// ErrEmpty means that there was not a single header.
	ErrEmpty = errors.New("no block headers")
	// ErrTooLong means that there are more headers than Params.MaxHeaders.
	ErrTooLong = errors.New("too many block headers")
	// ErrTooLittleWork means that every header is right, but that the chain has
	// less work than is pinned for the network: it is not complete, or not the
	// chain that the world knows. Fetch the missing headers.
	ErrTooLittleWork = errors.New("block headers have too little work")
	// ErrUnconnected means that headers follow no block of the chain. Fetch
	// headers from further back.
	ErrUnconnected = errors.New("block headers do not connect to the chain")
	// ErrLessWork means that a branch is right, but that what it would replace
	// has as much work or more. Keep the chain.
	ErrLessWork = errors.New("branch of block headers has no more work than what it replaces")
)

// Rule names the rule that a header breaks. The text is stable.
type Rule string

// The rules, in the order in which they are checked.
const (
	RuleGenesis  Rule = "genesis"    // block 0 is the network's genesis block
	RuleLink     Rule = "link"       // it names the hash of the block before
	RuleTarget   Rule = "target"     // nBits are a target above zero and within the network's limit
	RuleBits     Rule = "difficulty" // nBits are what the difficulty rules demand here
	RuleWork     Rule = "work"       // the hash is not above the target
	RuleTime     Rule = "time"       // the time is later than the median of the last eleven
	RuleTimewarp Rule = "timewarp"   // BIP94: an interval doesn't begin over 600 s before the last block
	RuleVersion  Rule = "version"    // BIP34, BIP66 and BIP65: the version isn't outdated
	RulePin      Rule = "pin"        // it is the block pinned at this height
)

// RuleError says which header breaks which rule. In a file that starts with the
// genesis block the header is at byte Height * HeaderSize.
type RuleError struct {
	Height int
	Rule   Rule
	Detail string
}

func (e *RuleError) Error() string {
	return fmt.Sprintf("block header at height %d breaks rule %q: %s", e.Height, e.Rule, e.Detail)
}
