package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/wire"
)

// Commands hold what an operator asks a gateway for, by errands of its job: each is
// the first argument of the gateway's program.
var Commands = []string{"check-orphans", "purge-orphans", "migrate"}

// operator asks a gateway that runs.
type operator struct {
	base   string // of URLs
	token  string
	client *http.Client
	out    io.Writer
}

// Operate does one of Commands at the gateway with this configuration.
func Operate(ctx context.Context, p component.Process, command string, args []string, out io.Writer) error {
	cfg, _, err := load(p.ConfigFile)
	if err != nil {
		return err
	}
	host := cfg.Host
	for _, other := range []string{p.Address, cfg.LocalRoute} {
		if host == "" {
			host = other
		}
	}
	o := operator{"http://" + net.JoinHostPort(host, strconv.Itoa(cfg.Port)), cfg.Token, &http.Client{Timeout: 2 * wire.ServiceMoveLimit}, out}
	defer o.client.CloseIdleConnections()
	switch command {
	case "check-orphans":
		return o.checkOrphans(ctx)
	case "purge-orphans":
		return o.purgeOrphans(ctx, args)
	case "migrate":
		if len(args) != 2 {
			return fmt.Errorf("migrate wants INSTANCE and NODE")
		}
		return o.migrate(ctx, args[0], args[1])
	}
	return fmt.Errorf("there is no command %q", command)
}

func (o operator) call(ctx context.Context, method, path string, body, into any) error {
	doc, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("cannot write the request: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, method, o.base+path, bytes.NewReader(doc))
	if err != nil {
		return fmt.Errorf("cannot ask the gateway: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("X-VCAP-Service-Token", o.token)
	response, err := o.client.Do(request)
	if err != nil {
		return fmt.Errorf("cannot ask the gateway: %w", err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("cannot read the gateway's answer: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		var m wire.ServiceMessage
		if json.Unmarshal(data, &m) == nil && m.Description != "" {
			return fmt.Errorf("the gateway answers %s: %s (%d)", response.Status, m.Description, m.Code)
		}
		return fmt.Errorf("the gateway answers %s", response.Status)
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("cannot read the gateway's answer: %w", err)
	}
	return nil
}

type foundOrphans struct {
	orphanLists
	Checks   int  `json:"checks"`
	Checking bool `json:"checking"`
}

func (o operator) found(ctx context.Context) (f foundOrphans, err error) {
	return f, o.call(ctx, http.MethodGet, "/service/internal/v1/orphans", struct{}{}, &f)
}

// checkOrphans waits for a check that begins now, and prints what it has found.
func (o operator) checkOrphans(ctx context.Context) error {
	before, err := o.found(ctx)
	if err != nil {
		return err
	}
	wanted := before.Checks + 1
	if before.Checking {
		wanted++ // the one in progress began before
	}
	for {
		if err := o.call(ctx, http.MethodPost, "/service/internal/v1/check_orphan", struct{}{}, nil); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("cannot wait for the check: %w", context.Cause(ctx))
		case <-time.After(200 * time.Millisecond):
		}
		f, err := o.found(ctx)
		if err != nil {
			return err
		}
		if f.Checks >= wanted {
			o.print("orphan", f.orphanLists)
			return nil
		}
	}
}

func (o operator) print(what string, l orphanLists) {
	for _, node := range l.nodes() {
		for _, name := range l.Instances[node] {
			fmt.Fprintf(o.out, "%s instance %s on %s\n", what, name, node)
		}
		for _, c := range l.Bindings[node] {
			fmt.Fprintf(o.out, "%s binding %s on %s\n", what, c.Binding(), node)
		}
	}
	if len(l.nodes()) == 0 {
		fmt.Fprintf(o.out, "no %ss\n", what)
	}
}

// purgeOrphans removes orphans that the last check has found: those that are named,
// or all if that is said.
func (o operator) purgeOrphans(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return fmt.Errorf("purge-orphans wants the names that check-orphans prints, or \"all\" for all of them")
	}
	f, err := o.found(ctx)
	if err != nil {
		return err
	}
	wanted := newOrphans()
	unfound := slices.Clone(names)
	is := func(name string) bool {
		unfound = slices.DeleteFunc(unfound, func(n string) bool { return n == name })
		return slices.Contains(names, name) || slices.Equal(names, []string{"all"})
	}
	for node, list := range f.Instances {
		for _, name := range list {
			if is(name) {
				inner(wanted.instances, node)[name] = true
			}
		}
	}
	for node, list := range f.Bindings {
		for _, c := range list {
			if is(c.Binding()) {
				inner(wanted.bindings, node)[c.Binding()] = c
			}
		}
	}
	if !slices.Equal(names, []string{"all"}) && len(unfound) > 0 {
		return fmt.Errorf("no orphans of the last check: %s; check-orphans names them", strings.Join(unfound, ", "))
	}
	var answer struct{ Purged, Refused orphanLists }
	if err := o.call(ctx, http.MethodDelete, "/service/internal/v1/purge_orphan", wanted.lists(), &answer); err != nil {
		return err
	}
	o.print("purged", answer.Purged)
	if len(answer.Refused.nodes()) > 0 {
		o.print("known again, kept", answer.Refused)
	}
	return nil
}

// migrate moves an instance to another node. The gateway does it, and goes on with it
// when nobody waits any more.
func (o operator) migrate(ctx context.Context, instance, to string) error {
	path := "/service/internal/v1/instances/" + instance + "/move"
	var move wire.ServiceMove
	if err := o.call(ctx, http.MethodPost, path, map[string]string{"to": to}, &move); err != nil {
		return err
	}
	number, said := move.Number, wire.MovePhase("")
	for {
		if move.Phase != said {
			said = move.Phase
			fmt.Fprintf(o.out, "%s from %s to %s: %s\n", instance, move.From, move.To, move.Phase)
		}
		switch {
		case move.Number != number:
			return fmt.Errorf("another move of %s has begun meanwhile, to %s", instance, move.To)
		case move.Phase == wire.MoveUndone:
			return fmt.Errorf("%s could not move: %s; it serves on %s as before", instance, move.Why, move.From)
		case move.Phase == wire.MoveDone:
			fmt.Fprintf(o.out, "%s is on %s, and the apps that are bound to it are being restarted. What was left on %s is an orphan: check-orphans, then purge-orphans %s\n", instance, to, move.From, instance)
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("cannot wait for the move any longer; the gateway goes on with it: %w", context.Cause(ctx))
		case <-time.After(200 * time.Millisecond):
		}
		if err := o.call(ctx, http.MethodGet, path, struct{}{}, &move); err != nil {
			fmt.Fprintf(o.out, "cannot see how far it is; trying again: %v\n", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
}
