package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/user"
	"strconv"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor"
	"github.com/calpe/calpe/anchor/signer"
	"github.com/calpe/calpe/anchor/wallet"
	"github.com/calpe/calpe/batch"
)

type signerCommand struct {
	Init   signerInit   `cmd:"" help:"Say what was signed so far: nothing, for a new log. The signer doesn't start without."`
	Serve  signerServe  `cmd:"" help:"Serve the policy signer on its socket."`
	Status signerStatus `cmd:"" help:"Ask the signer at the socket what it has signed and spent."`
	// RestartChain is the signer's side of "log restart-chain".
	RestartChain signerRestartChain `cmd:"" help:"Say with which coin the chain goes on, after somebody else has spent the one before. The signer must be stopped."`
}

// signerState is where a signer of its own keeps what it has signed.
type signerState struct {
	State string `help:"File in which the signer keeps the largest size that it signed and the fees of a day." env:"CALPE_SIGNER_STATE" default:"/var/lib/calpe-signer/state.json" type:"path"`
}

type signerInit struct {
	signerState `embed:""`
	Size        uint64 `help:"Size of the newest checkpoint, when there are anchors already."`
	Root        string `help:"Its root, in base64 as the checkpoint has it." placeholder:"BASE64"`
	Replace     bool   `help:"Replace a state that is there. Whoever gives a size below what was signed lets a second history be signed."`
}

// Run writes the state. It is the operator's word, so it takes nothing from the
// server's machine.
func (c *signerInit) Run(_ context.Context, a *app) error {
	keys, err := a.loadWallet()
	if err != nil {
		return err
	}
	s := signer.State{Network: keys.Network(), Address: keys.Keys()[0].Address(), Size: c.Size}
	if (c.Size == 0) != (c.Root == "") {
		return errors.New("give --size and --root together, both from the newest checkpoint")
	}
	if c.Root != "" {
		root, err := base64.StdEncoding.DecodeString(c.Root)
		if err != nil || len(root) != calpe.HashSize {
			return fmt.Errorf("--root: %q is not 32 bytes in base64, as in the third line of a checkpoint", c.Root)
		}
		s.Root = calpe.Hash(root)
	}
	err = signer.CreateState(c.State, s, c.Replace)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w; to say otherwise than it does, add --replace", err)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "state    %s\nsigned   %d entries\n", c.State, c.Size)
	return nil
}

type signerRestartChain struct {
	signerState `embed:""`
	Coin        string `required:"" help:"The coin, txid:vout, as \"calped log restart-chain\" has printed it. Look at a node of yours whether it is unspent, and to which address." placeholder:"TXID:VOUT"`
}

// Run is the operator's word, as "signer init" is: the server's machine has no part in
// it. Size, root and fees stay, so that the log goes on where it was.
func (c *signerRestartChain) Run(_ context.Context, a *app) error {
	first, err := calpe.ParseOutpoint(c.Coin)
	if err != nil {
		return fmt.Errorf("--coin: %w", err)
	}
	keys, err := a.loadWallet()
	if err != nil {
		return err
	}
	state, err := signer.OpenState(c.State, keys.Network(), keys.Keys()[0].Address())
	if err != nil {
		return err
	}
	defer func() { _ = state.Close() }()
	if err := state.Save(state.State().Restarted(first)); err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "state    %s\nsigned   %d entries\ngoes on  %v\n", c.State, state.State().Size, first)
	return nil
}

type signerServe struct {
	signerState `embed:""`
	ClientUser  string `help:"User, by name or number, whose processes may ask for signatures. Empty: the signer's own." env:"CALPE_SIGNER_CLIENT_USER"`
	Anchoring   `embed:"" prefix:"anchor-" envprefix:"CALPE_ANCHOR_" group:"Anchoring"`
}

// Run serves until ctx is done. What it needs is read before it listens.
func (c *signerServe) Run(ctx context.Context, a *app) error {
	caps, _, err := c.caps()
	if err != nil {
		return err
	}
	keys, err := a.loadWallet()
	if err != nil {
		return err
	}
	client, err := userNumber(c.ClientUser)
	if err != nil {
		return err
	}
	state, err := signer.OpenState(c.State, keys.Network(), keys.Keys()[0].Address())
	if err != nil {
		return err
	}
	defer func() { _ = state.Close() }()
	policy, err := signer.NewPolicy(signer.PolicyConfig{Keys: keys, Caps: caps, State: state, Now: a.now, Logger: a.log})
	if err != nil {
		return err
	}
	server, err := signer.NewServer(signer.ServerConfig{Signer: policy, Users: []uint32{client}, Logger: a.log})
	if err != nil {
		return err
	}
	listener, err := listenSigner(a.Signer.Socket)
	if err != nil {
		return err
	}
	a.log.InfoContext(ctx, "serving the signer", slog.String("address", listener.Addr().String()), slog.Uint64("client_user", uint64(client)),
		slog.Uint64("signed", state.State().Size), slog.String("deposits", keys.Current().Address()))
	return server.Serve(ctx, listener)
}

// userNumber is the number of a user, or of this process's if the name is empty.
func userNumber(name string) (uint32, error) {
	if name == "" {
		return uint32(os.Getuid()), nil
	}
	if n, err := strconv.ParseUint(name, 10, 32); err == nil {
		return uint32(n), nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return 0, fmt.Errorf("client user: %w", err)
	}
	n, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("client user %s has the number %q", name, u.Uid)
	}
	return uint32(n), nil
}

// firstPassed is the file descriptor of the first socket that systemd passes
// (sd_listen_fds(3)).
const firstPassed = 3

// listenSigner takes the socket that systemd made, which belongs to the client's
// user alone; or makes one that belongs to this user alone.
func listenSigner(path string) (*net.UnixListener, error) {
	if os.Getenv("LISTEN_PID") == strconv.Itoa(os.Getpid()) {
		if n := os.Getenv("LISTEN_FDS"); n != "1" {
			return nil, fmt.Errorf("systemd passes %s sockets, and the signer takes one", n)
		}
		f := os.NewFile(firstPassed, "LISTEN_FDS")
		defer f.Close()
		l, err := net.FileListener(f)
		if err != nil {
			return nil, fmt.Errorf("take the socket from systemd: %w", err)
		}
		if unix, ok := l.(*net.UnixListener); ok {
			return unix, nil
		}
		return nil, errors.Join(errors.New("systemd passes a socket that is not a Unix socket"), l.Close())
	}
	if path == "" {
		return nil, errors.New("no socket: set CALPE_SIGNER_SOCKET")
	}
	// The state is locked, so a socket that is there has nobody behind it.
	if info, err := os.Stat(path); err == nil && info.Mode().Type() == fs.ModeSocket {
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove the socket of a signer that died: %w", err)
		}
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for the engine: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("close the socket to others: %w", err), listener.Close())
	}
	return listener, nil
}

type signerStatus struct{}

func (c *signerStatus) Run(ctx context.Context, a *app) error {
	if a.Signer.Socket == "" {
		return errors.New("no socket: set CALPE_SIGNER_SOCKET")
	}
	s, err := signer.NewRemote(a.Signer.Socket).Status(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "network  %s\nsigned   %d entries\nroot     %s\nspent    %d of %d sat in 24 hours\n", s.Network, s.Size, base64.StdEncoding.EncodeToString(s.Root[:]), s.Spent, s.Budget)
	for _, script := range s.Scripts {
		address, err := wallet.Address(s.Network, script)
		if err != nil {
			return err
		}
		fmt.Fprintf(a.stdout, "address  %s\n", address)
	}
	return nil
}

// openSigner is the signer behind the socket, or one in this process under the same policy.
func (a *app) openSigner(caps wallet.Caps) (signer.Signer, error) {
	if a.Signer.Socket != "" {
		return signer.NewRemote(a.Signer.Socket), nil
	}
	keys, err := a.loadWallet()
	if err != nil {
		return nil, err
	}
	return signer.NewPolicy(signer.PolicyConfig{Keys: keys, Caps: caps, Now: a.now, Logger: a.log})
}

// newSigner is what the engine signs with.
func (s *service) newSigner(ctx context.Context, caps wallet.Caps, published *batch.Log) (*signer.Client, error) {
	with, err := s.app.openSigner(caps)
	if err != nil {
		return nil, err
	}
	return signer.NewClient(ctx, signer.ClientConfig{
		Signer: with, Network: s.identity.Network, Proofs: published,
		Transactions: anchor.Previous{Attempts: s.db.Anchors(), Node: s.node},
	})
}

// anchorScript is the output script of deposits, and its address: the signer's
// word if there is one, or the keystore's.
func (a *app) anchorScript(ctx context.Context) (script []byte, address string, err error) {
	if a.Signer.Socket == "" {
		keys, err := a.loadWallet()
		if err != nil {
			return nil, "", err
		}
		return keys.Current().Script(), keys.Current().Address(), nil
	}
	network, err := a.network()
	if err != nil {
		return nil, "", err
	}
	s, err := signer.NewRemote(a.Signer.Socket).Status(ctx)
	if err != nil {
		return nil, "", err
	}
	if s.Network != network || len(s.Scripts) == 0 {
		return nil, "", fmt.Errorf("the signer has %d keys for %s, and this deployment is on %s", len(s.Scripts), s.Network, network)
	}
	script = s.Scripts[len(s.Scripts)-1]
	address, err = wallet.Address(network, script)
	return script, address, err
}
