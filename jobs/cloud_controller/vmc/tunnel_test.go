package vmc

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// TestClientFor: whichever client is started, no password is in its arguments.
func TestClientFor(t *testing.T) {
	t.Parallel()
	for _, programs := range serviceClients {
		for _, program := range programs {
			environment, args := clientFor(program, 15432, "a-user", "a-password", "a-database")
			all := strings.Join(append(environment, args...), "\n")
			if strings.Contains(strings.Join(args, "\n"), "a-password") || !strings.Contains(strings.Join(environment, "\n"), "a-password") ||
				!strings.Contains(all, "a-user") || !strings.Contains(all, "15432") || !strings.Contains(all, "127.0.0.1") {
				t.Errorf("%s gets %q, %q", program, environment, args)
			}
		}
	}
}

// TestTunnel: a service's owner reaches it with a client of its own, or through a local
// port; nobody else does, and what is idle is ended.
func TestTunnel(t *testing.T) {
	p := newPlatform(t)
	p.ok("register", "me@example.com")
	p.redis()
	if out := p.ok("tunnel", "db", "redis-cli", "--", "SET", "k", "through the tunnel"); !strings.Contains(out, "OK") {
		t.Errorf("a client: %s", out)
	}
	if _, out, _ := p.vmc("tunnel", "db", "redis-cli", "GET", "k"); out != "through the tunnel\n" {
		t.Errorf("a client reads %q", out)
	}
	p.fails(`vmc knows how to start redis-cli, none for a redis, not "mysql"`, "tunnel", "db", "mysql")
	p.fails("Service not found", "tunnel", "none")

	ctx, cancel := context.WithCancel(t.Context())
	out, in := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		status := Run(ctx, "1.2.3", []string{"tunnel", "db", "--json"}, strings.NewReader(""), in, t.Output())
		_ = in.Close()
		ended <- status
	}()
	line, err := bufio.NewReader(out).ReadBytes('\n')
	must(t, err)
	var told struct {
		Host, Vendor string
		Port         int
		Credentials  struct{ Username, Password string }
	}
	if err := json.Unmarshal(line, &told); err != nil || told.Host != "127.0.0.1" || told.Vendor != "redis" || told.Credentials.Password == "" {
		t.Fatalf("%s, %v", line, err)
	}
	at := fmt.Sprintf("127.0.0.1:%d", told.Port)
	app := redis.NewClient(&redis.Options{Addr: at, Username: told.Credentials.Username, Password: told.Credentials.Password, DisableIdentity: true, MaxRetries: -1,
		DialTimeout: time.Minute, ReadTimeout: time.Minute, WriteTimeout: time.Minute})
	defer app.Close()
	large := strings.Repeat("0123456789abcdef", 1<<16)
	must(t, app.Set(t.Context(), "large", large, 0).Err())
	if got, err := app.Get(t.Context(), "large").Result(); err != nil || got != large {
		t.Errorf("%d bytes of %d come back, %v", len(got), len(large), err)
	}
	idle, err := net.Dial("tcp", at)
	must(t, err)
	defer idle.Close()
	must(t, idle.SetReadDeadline(time.Now().Add(deadline)))
	if n, err := idle.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("a connection on which nothing is sent: %d bytes, %v", n, err)
	}
	busy, err := net.Dial("tcp", at)
	must(t, err)
	defer busy.Close()
	must(t, busy.SetDeadline(time.Now().Add(deadline)))
	answers := bufio.NewReader(busy)
	ping := func() error {
		if _, err := io.WriteString(busy, "PING\r\n"); err != nil {
			return err
		}
		_, err := answers.ReadString('\n') // an error of redis', that it knows nobody here
		return err
	}
	must(t, ping())
	p.ok("passwd")
	var pinged error
	eventually(t, "a connection ends with the password that it was opened with", func() bool {
		pinged = ping()
		return pinged != nil
	})
	if timeout := net.Error(nil); errors.As(pinged, &timeout) && timeout.Timeout() {
		t.Errorf("it does not end: %v", pinged)
	}
	cancel()
	if status := <-ended; status != 0 {
		t.Errorf("the tunnel ends with %d", status)
	}
	if conn, err := net.Dial("tcp", at); err == nil {
		conn.Close()
		t.Error("the local port is still open")
	}

	p.ok("logout")
	p.ends(exitLogin, "You are not logged in", "tunnel", "db")
	p.ok("register", "friend@example.com")
	p.fails("Service not found", "tunnel", "db")
}
