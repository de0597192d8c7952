package uaa

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/client/rp"
	"github.com/zitadel/oidc/v3/pkg/oidc"

	"github.com/clusterworks/deploy/jobs/component/componenttest"
	"github.com/clusterworks/deploy/jobs/nats/natstest"
	"github.com/clusterworks/deploy/jobs/wire"
)

// claims verifies a token with the published keys and returns what it says.
func (w *world) claims(token string) map[string]any {
	w.Helper()
	var keys jose.JSONWebKeySet
	must(w, json.Unmarshal([]byte(w.get(w.browser(), pathKeys).body), &keys))
	signed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.RS256})
	must(w, err)
	matching := keys.Key(signed.Signatures[0].Header.KeyID)
	if len(matching) != 1 || !matching[0].IsPublic() {
		w.Fatalf("%d published keys have the token's id", len(matching))
	}
	payload, err := signed.Verify(matching[0])
	must(w, err)
	var claims map[string]any
	must(w, json.Unmarshal(payload, &claims))
	return claims
}

// active asks whether an access token is.
func (w *world) active(token string) bool {
	w.Helper()
	a := w.post(pathIntrospect, form("token", token), "page", pageSecret)
	var doc struct{ Active bool }
	must(w, json.Unmarshal([]byte(a.body), &doc))
	return doc.Active
}

// TestGrants: each grant gives what it should, and a refresh token the next one.
func TestGrants(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.account("dev@example.com")

	first := w.post(pathToken, passwordForm("Dev@example.com"))
	if first.status != 400 { // the password is of the name as it is written
		t.Errorf("%+v", first)
	}
	first = w.post(pathToken, passwordForm("dev@example.com"))
	claims := w.claims(first.field("access_token"))
	if first.status != 200 || claims["iss"] != w.url || claims["user_name"] != "dev@example.com" || !reflect.DeepEqual(claims["aud"], []any{"vmc", "cloud_controller"}) || claims["stamp"] == "" || claims["scope"] != "openid email offline_access cloud_controller" {
		t.Fatalf("password: %+v, %v", first, claims)
	}
	if first.header.Get("Cache-Control") != "no-store" {
		t.Errorf("tokens may be cached: %v", first.header)
	}
	request, err := http.NewRequest("GET", w.url+pathUserinfo, nil)
	must(t, err)
	request.Header.Set("Authorization", "Bearer "+first.field("access_token"))
	if info := w.do(w.browser(), request); info.field("email") != "dev@example.com" || info.field("sub") != claims["sub"] {
		t.Errorf("userinfo: %+v", info)
	}

	refresh := func(token string, more ...string) answer {
		f := form("grant_type", "refresh_token", "client_id", "vmc", "refresh_token", token)
		for i := 0; i < len(more); i += 2 {
			f.Set(more[i], more[i+1])
		}
		return w.post(pathToken, f)
	}
	second := refresh(first.field("refresh_token"), "scope", "openid")
	if claims := w.claims(second.field("access_token")); second.status != 200 || claims["scope"] != "openid" || claims["stamp"] != nil || !reflect.DeepEqual(claims["aud"], []any{"vmc"}) {
		t.Errorf("fewer scopes: %+v, %v", second, claims)
	}
	third := refresh(second.field("refresh_token"))
	if claims := w.claims(third.field("access_token")); third.status != 200 || claims["stamp"] == nil || third.field("refresh_token") == second.field("refresh_token") {
		t.Errorf("the login's scopes again: %+v, %v", third, claims)
	}

	robot := w.post(pathToken, form("grant_type", "client_credentials"), "robot", robotSecret)
	if claims := w.claims(robot.field("access_token")); robot.status != 200 || claims["sub"] != "robot" || claims["scope"] != "lamps" || claims["user_name"] != nil || robot.field("refresh_token") != "" {
		t.Errorf("client credentials: %+v, %v", robot, claims)
	}

	// A login is revoked by its refresh token; an access token by itself.
	if a := w.post(pathRevoke, form("token", third.field("refresh_token"), "client_id", "vmc")); a.status != 200 {
		t.Errorf("revoke: %+v", a)
	}
	if a := refresh(third.field("refresh_token")); a.status != 400 || a.field("error") != "invalid_grant" {
		t.Errorf("after the revocation: %+v", a)
	}
	if !w.active(third.field("access_token")) {
		t.Error("an access token does not live on")
	}
	if a := w.post(pathRevoke, form("token", third.field("access_token"), "client_id", "vmc")); a.status != 200 || w.active(third.field("access_token")) {
		t.Errorf("revoke an access token: %+v", a)
	}
	if a := w.post(pathRevoke, form("token", "nonsense", "client_id", "vmc")); a.status != 200 {
		t.Errorf("revoke what is no token: %+v", a)
	}
	w.stop()
	for _, secret := range []string{"secret of dev", pageSecret, robotSecret, controllerSecret, first.field("refresh_token"), first.field("access_token")} {
		if w.mu.Lock(); strings.Contains(w.log.String(), secret) {
			t.Errorf("the log tells %s", secret)
		}
		w.mu.Unlock()
	}
}

// TestRelyingParty: a client library, which knows nothing of ours but the URL, logs a
// user in.
func TestRelyingParty(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.account("dev@example.com")
	client, nonce := &http.Client{Transport: w.transport()}, "a nonce"
	party, err := rp.NewRelyingPartyOIDC(t.Context(), w.url, "page", pageSecret, webURI, []string{"openid", "email", "offline_access"}, rp.WithHTTPClient(client),
		rp.WithVerifierOpts(rp.WithNonce(func(context.Context) string { return nonce })))
	must(t, err)
	asked, err := url.Parse(rp.AuthURL("a state", party, rp.WithCodeChallenge(challenge(verifier)), rp.AuthURLOpt(rp.WithURLParam("nonce", "a nonce"))))
	must(t, err)
	if !strings.HasPrefix(asked.String(), w.url+pathAuthorize+"?") {
		t.Errorf("it sends users to %s", asked)
	}
	back := w.code(asked.Query(), "dev@example.com")
	if back.Get("state") != "a state" || back.Get("iss") != w.url {
		t.Errorf("it hears %v", back)
	}
	tokens, err := rp.CodeExchange[*oidc.IDTokenClaims](t.Context(), back.Get("code"), party, rp.WithCodeVerifier(verifier))
	must(t, err)
	if c := tokens.IDTokenClaims; c.Email != "dev@example.com" || c.Nonce != "a nonce" || c.Subject == "" || c.EmailVerified {
		t.Errorf("ID token: %+v", c)
	}
	nonce = "" // that was of the login
	next, err := rp.RefreshTokens[*oidc.IDTokenClaims](t.Context(), party, tokens.RefreshToken, "", "")
	must(t, err)
	if next.RefreshToken == tokens.RefreshToken || next.IDTokenClaims.Subject != tokens.IDTokenClaims.Subject {
		t.Errorf("the next tokens: %+v", next)
	}
	if w.claims(tokens.AccessToken)["stamp"] != nil {
		t.Error("a client without the scope gets what the cloud controllers take")
	}
}

// TestKeysRotate: a new signing key logs nobody out: tokens of the old one are valid,
// refresh tokens give tokens of the new one, and both survive a restart.
func TestKeysRotate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.account("dev@example.com")
	old := w.post(pathToken, passwordForm("dev@example.com"))
	keyID := func(token string) string {
		signed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.RS256})
		must(t, err)
		return signed.Signatures[0].Header.KeyID
	}
	w.configure(configuration + "key_epoch: 1\n")
	must(t, w.uaa.base.Reload())
	var now answer
	componenttest.Eventually(t, "another key signs", func() bool {
		now = w.post(pathToken, form("grant_type", "client_credentials"), "robot", robotSecret)
		return keyID(now.field("access_token")) != keyID(old.field("access_token"))
	})
	for range 2 {
		w.claims(old.field("access_token"))
		w.claims(now.field("access_token"))
		if !w.active(old.field("access_token")) {
			t.Error("a new key logs out")
		}
		next := w.post(pathToken, form("grant_type", "refresh_token", "client_id", "vmc", "refresh_token", old.field("refresh_token")))
		if next.status != 200 || keyID(next.field("access_token")) != keyID(now.field("access_token")) {
			t.Errorf("refresh: %+v", next)
		}
		old.body = strings.Replace(old.body, old.field("refresh_token"), next.field("refresh_token"), 1)
		w.stop()
		w.start()
	}
	// In the database they are not readable.
	data, err := os.ReadFile(filepath.Join(filepath.Dir(w.file), "uaa.db"))
	must(t, err)
	if strings.Contains(string(data), "PRIVATE KEY") || strings.Contains(string(data), old.field("refresh_token")) {
		t.Error("the database has a key or a token in plain text")
	}
}

// TestAccountsMove: accounts come with their hashes and go with them; a new password, and
// the end of an account, end its logins.
func TestAccountsMove(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.account("dev@example.com")
	w.account("ops@example.com")
	var list []wire.UAAAccount
	must(t, json.Unmarshal([]byte(w.controller("GET", wire.UAAAccounts, nil).body), &list))
	if len(list) != 2 || list[0].Email != "dev@example.com" || list[1].Hash == "" {
		t.Fatalf("%+v", list)
	}
	tokens := w.post(pathToken, passwordForm("dev@example.com"))
	if a := w.controller("POST", wire.UAAAccounts, list); a.status != 200 {
		t.Errorf("the same again: %+v", a)
	}
	next := func() answer {
		return w.post(pathToken, form("grant_type", "refresh_token", "client_id", "vmc", "refresh_token", tokens.field("refresh_token")))
	}
	if tokens = next(); tokens.status != 200 {
		t.Errorf("what has not changed ends a login: %+v", tokens)
	}
	// Her password becomes that of the other one, without anybody knowing it.
	list[0].Hash = list[1].Hash
	if a := w.controller("POST", wire.UAAAccounts, list); a.status != 200 {
		t.Errorf("%+v", a)
	}
	if a := next(); a.status != 400 {
		t.Errorf("a login outlives its password: %+v", a)
	}
	login := func(email, password string) answer {
		return w.controller("POST", wire.UAACheck, wire.UAALogin{Email: email, Password: password, Address: "10.0.0.1"})
	}
	if a := login("DEV@example.com", "secret of ops@example.com"); a.status != 200 || a.field("stamp") == list[0].Stamp || a.field("hash") != "" {
		t.Errorf("%+v", a)
	}
	if a := login("dev@example.com", "secret of dev@example.com"); a.status != 403 {
		t.Errorf("%+v", a)
	}
	if a := w.controller("PUT", wire.UAAAccounts+"/dev@example.com", wire.UAAPassword{Password: "x", New: true}); a.status != 409 {
		t.Errorf("an account is made twice: %+v", a)
	}
	for _, bad := range []any{[]wire.UAAAccount{{Email: "a@b.c", Hash: "plain"}}, []wire.UAAAccount{{Hash: list[0].Hash}}, "nonsense"} {
		if a := w.controller("POST", wire.UAAAccounts, bad); a.status != 400 {
			t.Errorf("%v: %+v", bad, a)
		}
	}
	for range 2 {
		if a := w.controller("DELETE", wire.UAAAccounts+"/dev@example.com", nil); a.status != 204 {
			t.Errorf("%+v", a)
		}
	}
	if a := w.controller("GET", wire.UAAAccounts+"/dev@example.com", nil); a.status != 404 {
		t.Errorf("%+v", a)
	}
}

// TestProgram: the program that is shipped serves, takes a reload and drains.
func TestProgram(t *testing.T) {
	t.Parallel()
	w := &world{T: t, bus: componenttest.Bus(t, natstest.Users(t, "uaa"))}
	folder := t.TempDir()
	program := filepath.Join(folder, "uaa")
	if out, err := exec.Command("go", "build", "-o", program, "./cmd/uaa").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	w.file, w.url = filepath.Join(folder, "uaa.yml"), fmt.Sprintf("http://uaa.localhost:%d", componenttest.FreePort(t))
	w.configure(configuration)
	process := exec.Command(program, "-c", w.file)
	process.Stderr = w
	must(t, process.Start())
	ended := make(chan error, 1)
	go func() { ended <- process.Wait() }()
	t.Cleanup(func() { _ = process.Process.Kill() }) // it may have ended
	componenttest.Eventually(t, "the program serves", func() bool {
		response, err := (&http.Client{Transport: w.transport()}).Get(w.url + "/info")
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == 200
	})
	robot := w.post(pathToken, form("grant_type", "client_credentials"), "robot", robotSecret)
	w.claims(robot.field("access_token"))
	must(t, process.Process.Signal(os.Interrupt))
	if err := <-ended; err != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		t.Errorf("it ends with %v:\n%s", err, w.log.String())
	}
}
