// Package functions is the function library of the manifest language: the ones
// that Terraform users know, as long as they are pure. There is none that reads
// a clock, a file or randomness, so the same manifest always says the same.
package functions

import (
	"github.com/hashicorp/hcl/v2/ext/tryfunc"
	ctyyaml "github.com/zclconf/go-cty-yaml"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/function/stdlib"
)

// All returns a new map of every function by name. The functions sensitive and
// nonsensitive put and take away the mark given.
func All(sensitive any) map[string]function.Function {
	return map[string]function.Function{
		// numbers
		"abs":      stdlib.AbsoluteFunc,
		"ceil":     stdlib.CeilFunc,
		"floor":    stdlib.FloorFunc,
		"log":      stdlib.LogFunc,
		"max":      stdlib.MaxFunc,
		"min":      stdlib.MinFunc,
		"parseint": stdlib.ParseIntFunc,
		"pow":      stdlib.PowFunc,
		"signum":   stdlib.SignumFunc,
		"sum":      sum,

		// strings
		"basename":    basename,
		"chomp":       stdlib.ChompFunc,
		"dirname":     dirname,
		"endswith":    endsWith,
		"format":      stdlib.FormatFunc,
		"formatdate":  stdlib.FormatDateFunc,
		"formatlist":  stdlib.FormatListFunc,
		"indent":      stdlib.IndentFunc,
		"join":        stdlib.JoinFunc,
		"lower":       stdlib.LowerFunc,
		"regex":       stdlib.RegexFunc,
		"regexall":    stdlib.RegexAllFunc,
		"replace":     replace,
		"split":       stdlib.SplitFunc,
		"startswith":  startsWith,
		"strcontains": stringContains,
		"strrev":      stdlib.ReverseFunc,
		"substr":      stdlib.SubstrFunc,
		"timeadd":     stdlib.TimeAddFunc,
		"title":       stdlib.TitleFunc,
		"trim":        stdlib.TrimFunc,
		"trimprefix":  stdlib.TrimPrefixFunc,
		"trimspace":   stdlib.TrimSpaceFunc,
		"trimsuffix":  stdlib.TrimSuffixFunc,
		"upper":       stdlib.UpperFunc,

		// collections
		"alltrue":         allTrue,
		"anytrue":         anyTrue,
		"chunklist":       stdlib.ChunklistFunc,
		"coalesce":        coalesce,
		"coalescelist":    stdlib.CoalesceListFunc,
		"compact":         stdlib.CompactFunc,
		"concat":          stdlib.ConcatFunc,
		"contains":        stdlib.ContainsFunc,
		"distinct":        stdlib.DistinctFunc,
		"element":         stdlib.ElementFunc,
		"flatten":         stdlib.FlattenFunc,
		"index":           index,
		"keys":            stdlib.KeysFunc,
		"length":          length,
		"lookup":          lookup,
		"matchkeys":       matchKeys,
		"merge":           stdlib.MergeFunc,
		"one":             one,
		"range":           stdlib.RangeFunc,
		"reverse":         stdlib.ReverseListFunc,
		"setintersection": stdlib.SetIntersectionFunc,
		"setproduct":      stdlib.SetProductFunc,
		"setsubtract":     stdlib.SetSubtractFunc,
		"setunion":        stdlib.SetUnionFunc,
		"slice":           stdlib.SliceFunc,
		"sort":            stdlib.SortFunc,
		"transpose":       transpose,
		"values":          stdlib.ValuesFunc,
		"zipmap":          stdlib.ZipmapFunc,

		// encodings and digests
		"base64decode": base64Decode,
		"base64encode": base64Encode,
		"base64sha256": base64SHA256,
		"base64sha512": base64SHA512,
		"csvdecode":    stdlib.CSVDecodeFunc,
		"jsondecode":   stdlib.JSONDecodeFunc,
		"jsonencode":   stdlib.JSONEncodeFunc,
		"md5":          hexMD5,
		"sha1":         hexSHA1,
		"sha256":       hexSHA256,
		"sha512":       hexSHA512,
		"urlencode":    urlEncode,
		"yamldecode":   ctyyaml.YAMLDecodeFunc,
		"yamlencode":   ctyyaml.YAMLEncodeFunc,

		// networks
		"cidrhost":    cidrHost,
		"cidrnetmask": cidrNetmask,
		"cidrsubnet":  cidrSubnet,
		"cidrsubnets": cidrSubnets,

		// types
		"can":          tryfunc.CanFunc,
		"nonsensitive": nonsensitive(sensitive),
		"sensitive":    markSensitive(sensitive),
		"tobool":       stdlib.MakeToFunc(cty.Bool),
		"tolist":       stdlib.MakeToFunc(cty.List(cty.DynamicPseudoType)),
		"tomap":        stdlib.MakeToFunc(cty.Map(cty.DynamicPseudoType)),
		"tonumber":     stdlib.MakeToFunc(cty.Number),
		"toset":        stdlib.MakeToFunc(cty.Set(cty.DynamicPseudoType)),
		"tostring":     stdlib.MakeToFunc(cty.String),
		"try":          tryfunc.TryFunc,
	}
}
