package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/calpe/calpe"
)

// Config is every setting that more than one command shares: a flag, or the
// variable named beside it. It is the only place where settings are declared;
// "calped serve --help" and docs/operations.md are made from it.
//
// Secrets (database URL, S3 secret key, RPC password, passphrase) come from a file
// whose path is a setting, or as systemd credentials with no setting at all; on
// a command line or in an environment others could read them. That the first
// three can be given there nevertheless is for trying things out.
type Config struct {
	Database Database `embed:"" prefix:"database-" envprefix:"CALPE_DATABASE_" group:"PostgreSQL"`
	S3       S3       `embed:"" prefix:"s3-" envprefix:"CALPE_S3_" group:"Object storage"`
	Bitcoin  Bitcoin  `embed:"" prefix:"bitcoin-" envprefix:"CALPE_BITCOIN_" group:"Bitcoin node"`
	Bitcoin2 Bitcoin  `embed:"" prefix:"bitcoin2-" envprefix:"CALPE_BITCOIN2_" group:"Second Bitcoin node"`
	Keys     string   `help:"Folder with the service's keys: keyring.json, checkpoint.key, acknowledgement.key, statement.key, wallet.age." env:"CALPE_KEYS" default:"/etc/calpe/keys" type:"path"`
	Wallet   Wallet   `embed:"" prefix:"wallet-" envprefix:"CALPE_WALLET_" group:"Anchor keys"`
	Signer   Socket   `embed:"" prefix:"signer-" envprefix:"CALPE_SIGNER_" group:"Anchor keys"`
	Network  string   `help:"Bitcoin network: mainnet, testnet4, signet, regtest, simnet." env:"CALPE_NETWORK" default:"mainnet"`
	Anchor   string   `help:"What anchors the log: bitcoin (a chain of coins of its own), calendars (OpenTimestamps calendars alone: no node, no wallet, no coins), or both." env:"CALPE_ANCHOR" enum:"bitcoin,calendars,both" default:"bitcoin"`
	Logging  Logging  `embed:"" prefix:"log-" envprefix:"CALPE_LOG_" group:"Log output"`
}

// Database says where PostgreSQL is.
type Database struct {
	URL               string        `help:"Connection URL, direct to the server and not through a transaction-pooling proxy: leadership is a session lock." env:"URL" placeholder:"postgres://…"`
	URLFile           string        `help:"File that holds the URL." env:"URL_FILE" type:"path"`
	MaxConns          int32         `help:"Largest number of connections for reading; up to 8 more write, lead and look up." env:"MAX_CONNS" default:"16"`
	StatementTimeout  time.Duration `help:"Longest statement." env:"STATEMENT_TIMEOUT" default:"30s"`
	AllowAsyncStandby bool          `help:"Run with standbys that are not synchronous, and accept that a failover loses acknowledged entries; the loss is then declared." env:"ALLOW_ASYNC_STANDBY"`
}

// S3 says where objects are kept.
type S3 struct {
	Endpoint        string `help:"URL of the S3 service." env:"ENDPOINT" placeholder:"https://…"`
	Region          string `help:"Region, as the service calls it." env:"REGION" default:"us-east-1"`
	AccessKey       string `help:"Access key." env:"ACCESS_KEY"`
	SecretKey       string `help:"Secret key." env:"SECRET_KEY"`
	SecretKeyFile   string `help:"File that holds the secret key." env:"SECRET_KEY_FILE" type:"path"`
	DocumentsBucket string `help:"Private bucket for encrypted documents, with versioning and Object Lock." env:"DOCUMENTS_BUCKET" default:"calpe-documents"`
	LogBucket       string `help:"Bucket for the log's tiles." env:"LOG_BUCKET" default:"calpe-log"`
	AllowMissing    bool   `help:"Run although objects of the newest documents are missing, and accept that these documents are lost." env:"ALLOW_MISSING"`
}

// Bitcoin says where a node is. The second one is optional: with it an anchor is
// final only if both have its block.
type Bitcoin struct {
	URL          string        `help:"URL of the node's JSON-RPC (btcd or Bitcoin Core)." env:"URL" placeholder:"http://127.0.0.1:8332"`
	User         string        `help:"RPC user." env:"USER"`
	Password     string        `help:"RPC password." env:"PASSWORD"`
	PasswordFile string        `help:"File that holds the RPC password." env:"PASSWORD_FILE" type:"path"`
	CookieFile   string        `help:"Bitcoin Core's cookie file, instead of user and password." env:"COOKIE_FILE" type:"path"`
	CAFile       string        `help:"Certificate of the node, as btcd makes one, if it speaks TLS." env:"CA_FILE" type:"path"`
	Timeout      time.Duration `help:"Longest call." env:"TIMEOUT" default:"30s"`
}

// Wallet says how the keystore opens.
type Wallet struct {
	PassphraseFile string `help:"File that holds the passphrase of wallet.age. Without it the systemd credential wallet-passphrase, or wallet.passphrase in the folder of keys." env:"PASSPHRASE_FILE" type:"path"`
}

// Socket says where the signer is.
type Socket struct {
	Socket string `help:"Unix socket of the policy signer, which has wallet.age then. Empty: this process has it, and signs by the same policy." env:"SOCKET" type:"path"`
}

// Logging says what is logged; it goes to the standard error stream.
type Logging struct {
	Level  slog.Level `help:"Least level to log: debug, info, warn, error." env:"LEVEL" default:"info"`
	Format string     `help:"json or text." env:"FORMAT" enum:"json,text" default:"json"`
}

func (l Logging) logger(w interface{ Write([]byte) (int, error) }) *slog.Logger {
	options := &slog.HandlerOptions{Level: l.Level}
	if l.Format == "text" {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(w, options))
}

// maxSecretFile is far more than any URL, key or password has.
const maxSecretFile = 4096

// secret is value, or what the file holds without the line's end. With neither,
// it is the systemd credential of that name, if there is one (systemd.exec(5)).
func secret(name, value, file string) (string, error) {
	what := strings.ReplaceAll(name, "-", " ")
	switch {
	case value != "" && file != "":
		return "", fmt.Errorf("%s: given twice, as a value and as a file", what)
	case value != "":
		return value, nil
	case file == "":
		file = credential(name)
	}
	if file == "" {
		return "", nil
	}
	f, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("%s: %w", what, err)
	}
	defer f.Close()
	buf := make([]byte, maxSecretFile+1)
	n, err := readFull(f, buf)
	if err != nil {
		return "", fmt.Errorf("%s: read %s: %w", what, file, err)
	}
	if n > maxSecretFile {
		return "", fmt.Errorf("%s: %s is longer than %d bytes", what, file, maxSecretFile)
	}
	return strings.TrimRight(string(buf[:n]), "\r\n"), nil
}

// credential is the path of the systemd credential of that name, or empty.
func credential(name string) string {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return ""
	}
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

func (d Database) url() (string, error) {
	url, err := secret("database-url", d.URL, d.URLFile)
	if err == nil && url == "" {
		err = errors.New("no database: set CALPE_DATABASE_URL or CALPE_DATABASE_URL_FILE")
	}
	return url, err
}

func (c Config) network() (calpe.Network, error) {
	return calpe.ParseNetwork(c.Network)
}
