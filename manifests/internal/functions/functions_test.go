package functions

import (
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

type mark string

const secret mark = "secret"

func evaluate(t *testing.T, expr string) (cty.Value, hcl.Diagnostics) {
	t.Helper()
	e, diags := hclsyntax.ParseExpression([]byte(expr), "test", hcl.InitialPos)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return e.Value(&hcl.EvalContext{
		Functions: All(secret),
		Variables: map[string]cty.Value{
			"unknown":      cty.UnknownVal(cty.String),
			"unknown_list": cty.UnknownVal(cty.List(cty.String)),
			"any":          cty.DynamicVal,
			"secret":       cty.StringVal("xy").Mark(secret),
			"nothing":      cty.NullVal(cty.String),
		},
	})
}

func TestFunctions(t *testing.T) {
	for expr, want := range map[string]string{
		`startswith("router", "rou")`:                           `true`,
		`endswith("router", "rou")`:                             `false`,
		`strcontains("router", "out")`:                          `true`,
		`basename("/a/b.yml")`:                                  `"b.yml"`,
		`dirname("/a/b.yml")`:                                   `"/a"`,
		`replace("a.b.c", ".", "-")`:                            `"a-b-c"`,
		`replace("a1b22", "/[0-9]+/", "<$0>")`:                  `"a<1>b<22>"`,
		`urlencode("a b&c")`:                                    `"a+b%26c"`,
		`base64decode(base64encode("hé"))`:                      `"hé"`,
		`md5("")`:                                               `"d41d8cd98f00b204e9800998ecf8427e"`,
		`sha1("abc")`:                                           `"a9993e364706816aba3e25717850c26c9cd0d89d"`,
		`sha256("abc")`:                                         `"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"`,
		`base64sha256("abc")`:                                   `"ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0="`,
		`substr(sha512("abc"), 0, 8)`:                           `"ddaf35a1"`,
		`yamlencode({ a = [1, "x"] })`:                          `"\"a\":\n- 1\n- \"x\"\n"`,
		`yamldecode("a: 1").a`:                                  `1`,
		`jsonencode({ b = true })`:                              `"{\"b\":true}"`,
		`length("héé")`:                                         `3`,
		`length([1, 2])`:                                        `2`,
		`length({ a = 1 })`:                                     `1`,
		`length(toset(["a", "a"]))`:                             `1`,
		`coalesce(nothing, "", "x", "y")`:                       `"x"`,
		`index(["a", "b"], "b")`:                                `1`,
		`lookup({ a = "1" }, "a", "d")`:                         `"1"`,
		`lookup({ a = "1" }, "b", "d")`:                         `"d"`,
		`lookup(tomap({ a = "1" }), "b", "d")`:                  `"d"`,
		`lookup(tomap({ a = "1" }), "a")`:                       `"1"`,
		`one(["x"])`:                                            `"x"`,
		`one([]) == null`:                                       `true`,
		`sum([1, 2.5, "3"])`:                                    `6.5`,
		`sum([])`:                                               `0`,
		`alltrue([true, false])`:                                `false`,
		`alltrue([])`:                                           `true`,
		`anytrue([false, "true"])`:                              `true`,
		`join(",", matchkeys(["a", "b", "c"], [1, 2, 1], [1]))`: `"a,c"`,
		`transpose({ a = ["x", "y"], b = ["x"] }).x[1]`:         `"b"`,
		`try(nothing.x, "else")`:                                `"else"`,
		`can(tonumber("x"))`:                                    `false`,
		`formatdate("YYYY", "2024-01-02T03:04:05Z")`:            `"2024"`,

		`cidrhost("10.0.0.0/8", 2)`:                          `"10.0.0.2"`,
		`cidrhost("10.0.0.0/24", -2)`:                        `"10.0.0.254"`,
		`cidrhost("fd00::/64", 17)`:                          `"fd00::11"`,
		`cidrnetmask("172.16.0.0/12")`:                       `"255.240.0.0"`,
		`cidrsubnet("10.1.2.0/24", 4, 15)`:                   `"10.1.2.240/28"`,
		`cidrsubnet("fd00::/56", 8, 255)`:                    `"fd00:0:0:ff::/64"`,
		`join(" ", cidrsubnets("10.1.0.0/16", 4, 4, 8, 4))`:  `"10.1.0.0/20 10.1.16.0/20 10.1.32.0/24 10.1.48.0/20"`,
		`join(" ", cidrsubnets("255.255.255.254/31", 1, 1))`: `"255.255.255.254/32 255.255.255.255/32"`,
		`length(cidrsubnets("10.1.0.0/16"))`:                 `0`,
		`nonsensitive(secret)`:                               `"xy"`,
		`nonsensitive(sensitive("a"))`:                       `"a"`,
	} {
		got, diags := evaluate(t, expr)
		if diags.HasErrors() {
			t.Errorf("%s: %s", expr, diags)
			continue
		}
		wanted, diags := evaluate(t, want)
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		if !got.RawEquals(wanted) {
			t.Errorf("%s is %#v, want %#v", expr, got, wanted)
		}
	}
}

func TestFunctionsRefuse(t *testing.T) {
	for expr, want := range map[string]string{
		`length(1)`:                                  "must be a string, a collection or a structure",
		`coalesce(nothing, "")`:                      "no argument is set",
		`index(["a"], "b")`:                          "does not hold",
		`index("a", "b")`:                            "must be a list",
		`lookup({ a = 1 }, "b")`:                     "no such attribute",
		`lookup(tomap({ a = 1 }), "b")`:              "no such key",
		`lookup(1, "b")`:                             "must be a map",
		`lookup({}, "a", 1, 2)`:                      "at most one default",
		`one([1, 2])`:                                "one element or none",
		`one(tolist(["a", "b"]))`:                    "has 2",
		`sum(["a"])`:                                 "all elements must be numbers",
		`sum(1)`:                                     "must be a list",
		`matchkeys(["a"], ["b", "c"], ["b"])`:        "same length",
		`base64decode("!")`:                          "not valid base64",
		`base64decode("/w==")`:                       "not UTF-8",
		`replace("a", "/[/", "b")`:                   "not a regular expression",
		`cidrhost("10.0.0.0", 1)`:                    "not a network",
		`cidrhost("10.0.0.0/24", 256)`:               "no host number 256",
		`cidrhost("10.0.0.0/24", 1.5)`:               "whole number",
		`cidrhost("10.0.0.0/24", -257)`:              "no host number",
		`cidrnetmask("fd00::/8")`:                    "no netmask",
		`cidrsubnet("10.0.0.0/24", 9, 0)`:            "cannot be split",
		`cidrsubnet("10.0.0.0/24", 1, 2)`:            "no network number 2",
		`cidrsubnets("10.0.0.0/24", 1, 1, 1)`:        "no room",
		`cidrsubnets("255.255.255.255/32", 0)`:       "cannot be split",
		`cidrsubnets("255.255.255.254/31", 1, 1, 1)`: "no room",
		`timestamp()`:                                "no function named",
		`uuid()`:                                     "no function named",
		`file("/etc/passwd")`:                        "no function named",
		`templatefile("x", {})`:                      "no function named",
	} {
		got, diags := evaluate(t, expr)
		if !diags.HasErrors() {
			t.Errorf("%s is %#v, want an error", expr, got)
		} else if !strings.Contains(diags.Error(), want) {
			t.Errorf("%s: %s, want %q", expr, diags, want)
		}
	}
}

// Each function takes unknown and marked arguments; the mark is on the result.
func TestFunctionsPassUnknownAndMarks(t *testing.T) {
	for _, expr := range []string{
		`length(unknown)`, `length(unknown_list)`, `length(any)`, `coalesce(unknown, "x")`, `index([unknown], "a")`,
		`lookup({ a = 1 }, unknown, 2)`, `one(unknown_list)`, `sum(any)`, `alltrue(any)`, `matchkeys(unknown_list, ["a"], ["a"])`,
		`transpose({ a = unknown_list })`, `sha256(unknown)`, `startswith(unknown, "a")`, `replace(unknown, "a", "b")`,
		`cidrhost(unknown, 1)`, `cidrsubnet("10.0.0.0/8", 8, any)`, `cidrsubnets(unknown, 1)`, `cidrnetmask(unknown)`,
		`sensitive(unknown)`, `jsonencode({ a = unknown })`, `yamlencode([unknown])`,
	} {
		v, diags := evaluate(t, expr)
		if diags.HasErrors() {
			t.Errorf("%s: %s", expr, diags)
		} else if v.IsWhollyKnown() {
			t.Errorf("%s is %#v, want an unknown value", expr, v)
		}
	}
	for _, expr := range []string{
		`length(secret)`, `coalesce(secret, "x")`, `index([secret], "xy")`, `sha256(secret)`, `startswith("xyz", secret)`,
		`replace("xyz", secret, "a")`, `lookup({ a = secret }, "a")`, `jsonencode({ a = secret })`, `yamlencode([secret])`,
		`one([secret])`, `sensitive("a")`, `try(secret, "x")`, `join("", matchkeys([secret], ["a"], ["a"]))`,
	} {
		v, diags := evaluate(t, expr)
		if diags.HasErrors() {
			t.Errorf("%s: %s", expr, diags)
		} else if !v.HasMark(secret) {
			t.Errorf("%s is %#v, want it to be marked", expr, v)
		}
	}
}
