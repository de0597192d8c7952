package bus

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// Account describes whose messages a borrower of the bus sees.
type Account string

const (
	Agents     Account = "agents"
	Components Account = "components"
	System     Account = "system" // the servers' own
)

// names hold what bus servers call the accounts.
var names = map[Account]string{Agents: "AGENTS", Components: "COMPONENTS", System: "$SYS"}

// maxLine bounds a line of the protocol's beginning, which holds server or client options.
const maxLine = 64 << 10

// Loan is a way onto the bus that ends with this process: a port of this machine
// that admits one password and forwards to the bus. The deployer's own credential
// never leaves the process, so there is nothing to keep or to steal.
type Loan struct {
	// URL holds user and password of the loan.
	URL string

	account  Account
	password string
	settings func() (Settings, error)
	listener net.Listener
	log      *slog.Logger
	ctx      context.Context
	cancel   context.CancelFunc
	owned    sync.WaitGroup
}

// Lend opens a loan for an account. Settings are asked for with each connection,
// because certificates end. It returns an error if the bus does not admit us, or
// its servers do not know the account.
func Lend(ctx context.Context, account Account, settings func() (Settings, error), log *slog.Logger) (*Loan, error) {
	if names[account] == "" {
		return nil, fmt.Errorf("cannot use account %q: there are %s, %s and %s", account, Agents, Components, System)
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("cannot lend the bus: %w", err)
	}
	l := &Loan{account: account, password: rand.Text(), settings: settings, listener: listener, log: log}
	l.URL = (&url.URL{Scheme: "nats", User: url.UserPassword("deploy", l.password), Host: listener.Addr().String()}).String()
	l.ctx, l.cancel = context.WithCancel(ctx)
	l.owned.Go(l.serve)
	if err := l.check(); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Close ends the loan and everything that uses it.
func (l *Loan) Close() {
	l.cancel()
	_ = l.listener.Close()
	l.owned.Wait()
}

// check asks the bus whose messages a borrower sees: servers of earlier versions
// know the agents' account only.
func (l *Loan) check() error {
	nc, err := nats.Connect(l.URL, nats.Timeout(2*connectTimeout), nats.MaxReconnects(0), nats.Name("deployer"))
	if err != nil {
		// The reason is in what the bus's server answered.
		up, _, upErr := l.dial(l.ctx)
		if upErr == nil {
			_ = up.Close()
			upErr = err
		}
		return fmt.Errorf("cannot connect to the bus: %w", upErr)
	}
	defer nc.Close()
	answer, err := nc.Request("$SYS.REQ.USER.INFO", nil, 2*connectTimeout)
	if err != nil {
		return fmt.Errorf("cannot ask the bus for the account: %w", err)
	}
	var info struct {
		Data struct {
			Account string `json:"account"`
		} `json:"data"`
	}
	if err := json.Unmarshal(answer.Data, &info); err != nil {
		return fmt.Errorf("cannot read what the bus says of the account: %w", err)
	}
	if info.Data.Account != names[l.account] && l.account != Agents {
		return fmt.Errorf("cannot use account %s: the bus's servers are of an earlier version, which knows the agents' only; deploy apply updates them", l.account)
	}
	return nil
}

// serve takes connections until the loan ends.
func (l *Loan) serve() {
	for {
		conn, err := l.listener.Accept()
		if err != nil {
			return // it is closed, which is all that ends it
		}
		l.owned.Go(func() {
			defer conn.Close()
			ctx, cancel := context.WithCancel(l.ctx)
			defer cancel()
			defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
			if err := l.forward(ctx, conn); err != nil && ctx.Err() == nil {
				l.log.Debug("bus: a borrower's connection ended", "error", err)
			}
		})
	}
}

// forward connects a borrower with the bus.
func (l *Loan) forward(ctx context.Context, conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(4 * connectTimeout)); err != nil {
		return err
	}
	up, info, err := l.dial(ctx)
	if err != nil {
		return errors.Join(err, refuse(conn, "the bus cannot be reached"))
	}
	defer up.Close()
	defer context.AfterFunc(ctx, func() { _ = up.Close() })()

	// We are the server: without TLS, and the only one that there is.
	for _, name := range []string{"tls_required", "tls_verify", "tls_available", "connect_urls", "ws_connect_urls", "nonce", "ip"} {
		delete(info, name)
	}
	info["auth_required"] = true
	if err := writeLine(conn, "INFO", info); err != nil {
		return err
	}
	client := bufio.NewReaderSize(conn, maxLine)
	options, err := readLine(client, "CONNECT")
	if err != nil {
		return errors.Join(err, refuse(conn, "want CONNECT"))
	}
	user, _ := options["user"].(string)
	password, _ := options["pass"].(string)
	if user != "deploy" || subtle.ConstantTimeCompare([]byte(password), []byte(l.password)) != 1 {
		return errors.Join(errors.New("it gave another password"), refuse(conn, "Authorization Violation"))
	}
	for _, name := range []string{"user", "pass", "auth_token", "jwt", "nkey", "sig"} {
		delete(options, name)
	}
	if l.account != Agents {
		options["user"] = string(l.account)
	}
	options["tls_required"] = true
	options["protocol"] = 0 // else servers tell of each other, whom a borrower cannot reach
	if err := writeLine(up, "CONNECT", options); err != nil {
		return err
	}
	if err := errors.Join(conn.SetDeadline(time.Time{}), up.SetDeadline(time.Time{})); err != nil {
		return err
	}
	var copying sync.WaitGroup
	copying.Go(func() {
		_, _ = io.Copy(conn, up) // what the server says last, its error, arrives too
		_ = conn.Close()
	})
	_, err = io.Copy(up, client)
	_ = up.Close()
	copying.Wait()
	return err
}

// dial connects to the first of the bus's servers that answers, and returns what
// it says of itself. The connection's deadline is set.
func (l *Loan) dial(ctx context.Context) (net.Conn, map[string]any, error) {
	s, err := l.settings()
	if err != nil {
		return nil, nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.CA)
	certificate, err := tls.X509KeyPair(s.Certificate, s.Key)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot use the deployer's certificate: %w", err)
	}
	var failed error
	for _, server := range s.URLs {
		address := strings.TrimPrefix(server, "tls://")
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, nil, err
		}
		conn, info, err := dialServer(ctx, s, address, &tls.Config{
			MinVersion: tls.VersionTLS12, RootCAs: roots, Certificates: []tls.Certificate{certificate}, ServerName: host,
		})
		if err == nil {
			return conn, info, nil
		}
		failed = errors.Join(failed, fmt.Errorf("%s: %w", server, err))
	}
	return nil, nil, failed
}

func dialServer(ctx context.Context, s Settings, address string, config *tls.Config) (net.Conn, map[string]any, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	dial := s.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	conn, err := dial(ctx, "tcp", address)
	if err != nil {
		return nil, nil, err
	}
	info, err := func() (map[string]any, error) {
		if err := conn.SetDeadline(time.Now().Add(connectTimeout)); err != nil {
			return nil, err
		}
		// Byte by byte, because what follows the line is TLS.
		return readLine(bufio.NewReaderSize(oneByte{conn}, maxLine), "INFO")
	}()
	if err == nil {
		secure := tls.Client(conn, config)
		if err = secure.HandshakeContext(ctx); err == nil {
			return secure, info, nil
		}
	}
	_ = conn.Close()
	return nil, nil, err
}

// oneByte reads no more than is asked for.
type oneByte struct{ io.Reader }

func (r oneByte) Read(p []byte) (int, error) { return r.Reader.Read(p[:min(1, len(p))]) }

// readLine reads one operation of the protocol and its options.
func readLine(r *bufio.Reader, operation string) (map[string]any, error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", operation, err)
	}
	name, rest, _ := bytes.Cut(bytes.TrimSpace(line), []byte(" "))
	if !strings.EqualFold(string(name), operation) {
		return nil, fmt.Errorf("want %s, got %.40q", operation, line)
	}
	options := map[string]any{}
	decoder := json.NewDecoder(bytes.NewReader(rest))
	decoder.UseNumber()
	if err := decoder.Decode(&options); err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", operation, err)
	}
	return options, nil
}

func writeLine(w io.Writer, operation string, options map[string]any) error {
	text, err := json.Marshal(options)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s %s\r\n", operation, text)
	return err
}

func refuse(w io.Writer, why string) error {
	_, err := fmt.Fprintf(w, "-ERR '%s'\r\n", why)
	return err
}
